// Fused multiply-adds of the generic form: exactly a b + c, rounded once.
//
// Where the processor may lack the instruction, __builtin_fmaf calls libm for each lane, and libm may take fifty
// instructions. So the same is computed with doubles; tests/encoder/fma.cpp holds that to libm's.
#pragma once

#include <bit>

#include "generic.h"

namespace octavo::OCTAVO_FORM {

#if defined(__FP_FAST_FMAF) || defined(__aarch64__)

OCTAVO_INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  return each<Floats>([&](int i) {
    FourFloats four;
    for (int lane = 0; lane < 4; ++lane) four[lane] = __builtin_fmaf(a.at[i][lane], b.at[i][lane], c.at[i][lane]);
    return four;
  });
}
OCTAVO_INLINE Floats fma_bf16(const Floats& a, const Floats& b, const Floats& c) { return fma(a, b, c); }

#else

typedef double TwoDoubles __attribute__((vector_size(16)));
typedef uint64_t TwoLongs __attribute__((vector_size(16)));

// The sum of two doubles, rounded to odd: if it is not exact, the one of its two neighbours whose last bit is set. A
// float rounded from it is as if rounded once (Boldo and Melquiond, 2008). The error of the sum rounded to nearest is
// Knuth's; that of infinity is NaN.
OCTAVO_INLINE TwoDoubles sum_to_odd(TwoDoubles a, TwoDoubles b) {
  const auto sum = a + b, added = sum - a;
  const auto error = (a - (sum - added)) + (b - added);
  const auto size = (TwoDoubles)((TwoLongs)error & 0x7fffffffffffffff);
  const auto is_inexact = (TwoLongs)(size > 0);
  const auto is_too_far = ((TwoLongs)sum ^ (TwoLongs)error) >> 63;
  return (TwoDoubles)(((TwoLongs)sum - (is_too_far & is_inexact)) | (is_inexact & 1));
}

// The product of two floats is exact in a double.
inline __attribute__((noinline)) Floats fma_rounded_once(const Floats& a, const Floats& b, const Floats& c) {
  return each<Floats>([&](int i) {
    const auto product = __builtin_convertvector(a.at[i], FourDoubles) * __builtin_convertvector(b.at[i], FourDoubles);
    const auto addend = __builtin_convertvector(c.at[i], FourDoubles);
    TwoDoubles products[2], addends[2], sums[2];
    __builtin_memcpy(products, &product, sizeof products);
    __builtin_memcpy(addends, &addend, sizeof addends);
    for (int half = 0; half < 2; ++half) sums[half] = sum_to_odd(products[half], addends[half]);
    FourDoubles sum;
    __builtin_memcpy(&sum, sums, sizeof sum);
    return __builtin_convertvector(sum, FourFloats);
  });
}

OCTAVO_INLINE bool any_negative(const Words& x) {
  const auto both = (TwoLongs)((x.at[0] | x.at[1]) | (x.at[2] | x.at[3]));
  return (both[0] | both[1]) & 0x8000000080000000;
}

// Negative where x, but for its sign, is below `size`.
OCTAVO_INLINE FourWords beyond(FourFloats x, float size) {
  return FourWords(FourBits(x) & 0x7fffffff) - std::bit_cast<int32_t>(size);
}

// The sum is rounded twice, to a double and to a float. That is as good as once, unless the double is halfway between two
// floats, or the float is so small that it has fewer bits.
OCTAVO_INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  Words doubtful;  // negative where it may matter
  const Floats result = each<Floats>([&](int i) {
    const auto product = __builtin_convertvector(a.at[i], FourDoubles) * __builtin_convertvector(b.at[i], FourDoubles);
    const auto sum = product + __builtin_convertvector(c.at[i], FourDoubles);
    const auto rounded = __builtin_convertvector(sum, FourFloats);
    const auto lost = __builtin_convertvector((FourLongs)sum, FourBits) & 0x1fffffff;  // the bits that a float lacks
    doubtful.at[i] = (lost == 0x10000000) | beyond(rounded, 0x1p-125f);
    return rounded;
  });
  if (any_negative(doubtful)) return fma_rounded_once(Floats(a), Floats(b), Floats(c));
  return result;
}

// The product has sixteen bits, which a float holds, or is below 2^-134, and then changes only sums that are small too.
OCTAVO_INLINE Floats fma_bf16(const Floats& a, const Floats& b, const Floats& c) {
  const Floats result = a * b + c;
  const Words doubtful = each<Words>([&](int i) { return beyond(result.at[i], 0x1p-99f); });
  if (any_negative(doubtful)) return fma_rounded_once(Floats(a), Floats(b), Floats(c));
  return result;
}

#endif

}  // namespace octavo::OCTAVO_FORM
