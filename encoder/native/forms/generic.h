// Plain C++: the definition of each operation, on any processor.
#pragma once

#include <bit>
#include <utility>

#include "exponent.h"

namespace octavo::OCTAVO_FORM {

struct Floats {
  float at[kLanes];
};
struct Words {
  int32_t at[kLanes];
};
using Mask = Words;  // -1 or 0

template <class Result, class Lane>
OCTAVO_INLINE Result each(Lane lane) {
  Result result;
  for (int i = 0; i < kLanes; ++i) result.at[i] = lane(i);
  return result;
}

// Folds sixteen numbers by halves: lane i with lane i + 8, then + 4, + 2, + 1.
template <class Vector, class Combine>
OCTAVO_INLINE auto fold(Vector x, Combine combine) {
  for (int64_t half = kLanes / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) x.at[i] = combine(x.at[i], x.at[i + half]);
  return x.at[0];
}

constexpr int32_t wrapped(uint32_t x) { return static_cast<int32_t>(x); }
constexpr uint32_t raw(int32_t x) { return static_cast<uint32_t>(x); }
constexpr int32_t clamped(int32_t x, int32_t least, int32_t most) { return x < least ? least : x > most ? most : x; }

OCTAVO_INLINE Floats splat(float x) {
  return each<Floats>([&](int) { return x; });
}
OCTAVO_INLINE Words splat(int32_t x) {
  return each<Words>([&](int) { return x; });
}
OCTAVO_INLINE Floats load(const float* p) {
  Floats x;
  __builtin_memcpy(x.at, p, sizeof x.at);
  return x;
}
OCTAVO_INLINE Words load(const int32_t* p) {
  Words x;
  __builtin_memcpy(x.at, p, sizeof x.at);
  return x;
}
OCTAVO_INLINE void store(float* p, const Floats& x) { __builtin_memcpy(p, x.at, sizeof x.at); }
OCTAVO_INLINE void store(int32_t* p, const Words& x) { __builtin_memcpy(p, x.at, sizeof x.at); }

OCTAVO_INLINE Floats operator+(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] + b.at[i]; });
}
OCTAVO_INLINE Floats operator-(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] - b.at[i]; });
}
OCTAVO_INLINE Floats operator*(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] * b.at[i]; });
}
OCTAVO_INLINE Floats operator/(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] / b.at[i]; });
}
OCTAVO_INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  return each<Floats>([&](int i) { return __builtin_fmaf(a.at[i], b.at[i], c.at[i]); });
}
OCTAVO_INLINE Floats fnma(const Floats& a, const Floats& b, const Floats& c) {
  return each<Floats>([&](int i) { return __builtin_fmaf(-a.at[i], b.at[i], c.at[i]); });
}
OCTAVO_INLINE Floats min(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
OCTAVO_INLINE Floats max(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}

OCTAVO_INLINE Words operator+(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return wrapped(raw(a.at[i]) + raw(b.at[i])); });
}
OCTAVO_INLINE Words operator-(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return wrapped(raw(a.at[i]) - raw(b.at[i])); });
}
OCTAVO_INLINE Words operator&(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return a.at[i] & b.at[i]; });
}
OCTAVO_INLINE Words operator|(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return a.at[i] | b.at[i]; });
}
OCTAVO_INLINE Words max(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
template <int N>
OCTAVO_INLINE Words shift_left(const Words& a) {
  return each<Words>([&](int i) { return wrapped(raw(a.at[i]) << N); });
}
template <int N>
OCTAVO_INLINE Words shift_right(const Words& a) {
  return each<Words>([&](int i) { return wrapped(raw(a.at[i]) >> N); });
}

OCTAVO_INLINE Words bits(const Floats& x) {
  return each<Words>([&](int i) { return std::bit_cast<int32_t>(x.at[i]); });
}
OCTAVO_INLINE Floats floats(const Words& x) {
  return each<Floats>([&](int i) { return std::bit_cast<float>(x.at[i]); });
}
OCTAVO_INLINE Floats to_floats(const Words& x) {
  return each<Floats>([&](int i) { return static_cast<float>(x.at[i]); });
}
// A double of this size has no bits below one: adding rounds to nearest even, and leaves the integer in its low bits.
OCTAVO_INLINE Words to_words(const Floats& x) {
  return each<Words>([&](int i) {
    const double rounded = static_cast<double>(x.at[i]) + 0x1.8p52;
    const auto low = static_cast<uint32_t>(std::bit_cast<uint64_t>(rounded));
    return x.at[i] >= -0x1p31f && x.at[i] < 0x1p31f ? wrapped(low) : INT32_MIN;
  });
}

OCTAVO_INLINE Mask lanes(int64_t from, int64_t to) {
  return each<Words>([&](int i) { return i >= from && i < to ? -1 : 0; });
}
OCTAVO_INLINE Words select(const Mask& mask, const Words& a, const Words& b) {
  return each<Words>([&](int i) { return mask.at[i] ? a.at[i] : b.at[i]; });
}

OCTAVO_INLINE float reduce_add(const Floats& x) {
  return fold(x, [](float a, float b) { return a + b; });
}
OCTAVO_INLINE float reduce_max(const Floats& x) {
  return fold(x, [](float a, float b) { return a > b ? a : b; });
}
OCTAVO_INLINE float reduce_min(const Floats& x) {
  return fold(x, [](float a, float b) { return a < b ? a : b; });
}
OCTAVO_INLINE int32_t reduce_add(const Words& x) {
  return fold(x, [](int32_t a, int32_t b) { return wrapped(raw(a) + raw(b)); });
}
OCTAVO_INLINE int32_t reduce_max(const Words& x) {
  return fold(x, [](int32_t a, int32_t b) { return a > b ? a : b; });
}

OCTAVO_INLINE Words load_halves(const Bf16* p) {
  return each<Words>([&](int i) { return static_cast<int32_t>(p[i]); });
}
OCTAVO_INLINE void store_halves(Bf16* p, const Words& x) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<Bf16>(x.at[i]);
}
OCTAVO_INLINE Words load_signed(const int8_t* p) {
  return each<Words>([&](int i) { return static_cast<int32_t>(p[i]); });
}
OCTAVO_INLINE void store_signed(int8_t* p, const Words& x) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(clamped(x.at[i], -128, 127));
}
OCTAVO_INLINE void store_bytes(uint8_t* p, const Words& x) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint8_t>(clamped(x.at[i], 0, 255));
}
OCTAVO_INLINE void store_bytes(uint8_t* p, const Words (&x)[4]) {
  for (int i = 0; i < 4; ++i) store_bytes(p + i * kLanes, x[i]);
}

OCTAVO_INLINE void store_weights(uint8_t* p, const Words (&below)[4], Words& sum) {
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < kLanes; ++i) {
      const int32_t x = clamped(below[j].at[i], 0, 0xffff);
      const int32_t fine = x < 16 * 64 ? kPowers.at[x % 64] >> x / 64 : 0;
      sum.at[i] += fine;
      p[j * kLanes + i] = static_cast<uint8_t>((fine + 64) >> 7);
    }
}

OCTAVO_INLINE void transpose(Words (&rows)[16]) {
  for (int r = 0; r < 16; ++r)
    for (int c = 0; c < r; ++c) std::swap(rows[r].at[c], rows[c].at[r]);
}

// --- Products -------------------------------------------------------------------------------------------------------

// Multiplies row by column, both widened to 16 bits once for each product: a loop that compilers turn into the
// processor's multiply-and-add of 16-bit numbers, if it has one.
class Multiplier {
 public:
  static constexpr int64_t kRows = 12;
  static constexpr bool kTiles = false;

  void multiply(const Product& p, Begin begin) {
    const int64_t inner = 4 * p.steps;
    int16_t* rows = wide_.reserve((p.rows + kLanes) * inner);
    int16_t* columns = rows + p.rows * inner;
    for (int64_t row = 0; row < p.rows; ++row)
      for (int64_t i = 0; i < inner; ++i)
        rows[row * inner + i] = reinterpret_cast<const uint8_t*>(p.a + row * p.a_stride)[i];
    for (int64_t v = 0; v < p.vectors; ++v) {
      const Word* panel = p.panels + v / 2 * p.panel_stride + v % 2 * kLanes;
      for (int64_t k = 0; k < p.steps; ++k)
        for (int64_t i = 0; i < 4 * kLanes; ++i)
          columns[i / 4 * inner + 4 * k + i % 4] = reinterpret_cast<const int8_t*>(panel + k * kPanel)[i];
      for (int64_t row = 0; row < p.rows; ++row)
        for (int64_t column = 0; column < kLanes; ++column)
          p.c[row * p.c_stride + v * kLanes + column] =
              (begin == Begin::kZero ? 0 : panel[p.steps * kPanel + column]) +
              raw(product(rows + row * inner, columns + column * inner, inner));
    }
  }

 private:
  static int32_t product(const int16_t* a, const int16_t* b, int64_t count) {
    int32_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];  // at most 65,536 of 255 · 127
    return sum;
  }

  Buffer<int16_t> wide_;
};

}  // namespace octavo::OCTAVO_FORM
