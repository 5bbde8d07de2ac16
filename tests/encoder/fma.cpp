// Holds the generic form's fused multiply-adds to libm's: fma CASES. Prints what differs and returns 1.
//
// Each case is a lane among harmless ones or among zeros, since one doubtful lane decides how all sixteen are computed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "vectors.h"

using namespace octavo::OCTAVO_FORM;

namespace {

uint64_t random_bits() {  // xorshift64*
  static uint64_t state = 88172645463325252;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state * 2685821657736338717;
}
int64_t below(int64_t count) { return static_cast<int64_t>(random_bits() >> 1) % count; }
bool one_in(int64_t count) { return below(count) == 0; }
float signed_randomly(float x) { return one_in(2) ? x : -x; }

// A number of this size, with many bits or few; denormal for sizes below -126.
float sized(int64_t exponent) {
  const auto most = static_cast<uint32_t>(random_bits()) & 0x7fffff;
  const uint32_t choices[] = {most, most, most & 0x7f0000, most & 0x7ff000, 0, 1, 0x7fffff, 0x400000};
  const auto field = static_cast<uint32_t>(std::clamp<int64_t>(exponent + 127, 0, 254));
  return signed_randomly(std::bit_cast<float>(field << 23 | choices[below(8)]));
}

struct Case {
  float a, b, c;
};

// The product is halfway between two floats, and the addend may be too small to be seen in a double.
Case halfway_product() {
  const auto odd = [](int64_t bits) { return static_cast<float>((1 << bits) + 2 * below(1 << (bits - 1)) + 1); };
  const float a = std::ldexp(odd(12), static_cast<int>(below(60)) - 30);
  const float b = std::ldexp(odd(11), static_cast<int>(below(150)) - 130);
  return {signed_randomly(a), b, sized(std::ilogb(double{a} * b) - 20 - below(70))};
}

// The product is half of the addend's last place, or a little off.
Case halfway_addend() {
  const float c = sized(below(one_in(2) ? 30 : 253) - 127);
  if (c == 0) return {0, 0, c};
  const int half = std::max(std::ilogb(c) - 23, -149) - 1 - static_cast<int>(below(2)), split = half / 2;
  const float off = static_cast<float>(1 + below(3)), step = one_in(2) ? 0x1p-23f : 0x1p-8f;
  const float factors[] = {1.0f, 1 + off * step, 1 - off * step};
  return {signed_randomly(std::ldexp(factors[below(3)], split)), std::ldexp(factors[below(3)], half - split), c};
}

Case any_case() {
  const auto any = [] { return std::bit_cast<float>(static_cast<uint32_t>(random_bits())); };
  switch (below(5)) {
    case 0:
      return {any(), any(), any()};
    case 1:
      return halfway_product();
    case 2:
      return halfway_addend();
    default: {
      const int64_t a = below(252) - 126, b = std::clamp<int64_t>(below(280) - 150 - a, -130, 127);
      const Case made = {sized(a), sized(b), sized(a + b + below(60) - 30)};
      return one_in(8) ? Case{made.a, made.b, -made.a * made.b} : made;
    }
  }
}

bool same(float x, float y) {
  return (std::isnan(x) && std::isnan(y)) || std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
}
float shortened(float x) { return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xffff0000); }

template <class Fma>
bool holds(const char* name, const Case& given, int64_t lane, const Fma& function) {
  float a[kLanes], b[kLanes], c[kLanes], found[kLanes];
  const float others = one_in(2) ? 0.0f : 1.5f;
  std::fill(a, a + kLanes, others);
  std::fill(b, b + kLanes, 2.5f);
  std::fill(c, c + kLanes, others);
  a[lane] = given.a, b[lane] = given.b, c[lane] = given.c;
  store(found, function(load(a), load(b), load(c)));
  const float expected = std::fmaf(given.a, given.b, given.c);
  if (same(found[lane], expected) && same(found[(lane + 1) % kLanes], std::fmaf(others, 2.5f, others))) return true;
  std::printf("%s(%a, %a, %a) is %a, not %a\n", name, given.a, given.b, given.c, found[lane], expected);
  return false;
}

}  // namespace

int main(int, char** arguments) {
  bool all = true;
  const int64_t cases = std::atoll(arguments[1]);
  for (int64_t i = 0; i < cases && all; ++i) {
    const Case given = any_case(), brief = {shortened(given.a), shortened(given.b), given.c};
    const auto full = [](auto a, auto b, auto c) { return fma(a, b, c); };
    const auto bf16 = [](auto a, auto b, auto c) { return fma_bf16(a, b, c); };
    all = holds("fma", given, i % kLanes, full);
    if (std::isfinite(brief.a * brief.b) || !std::isfinite(double{brief.a} * brief.b))  // not if only the product overflows
      all = holds("fma_bf16", brief, i % kLanes, bf16) && all;
  }
  return all ? 0 : 1;
}
