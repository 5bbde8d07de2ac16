// Vectors of sixteen 32-bit numbers, and the product of matrices: what each form of the core has its own code for.
//
// OCTAVO_FORM names the form (see library.py) and its namespace. Everything that is compiled once for each form is in
// that namespace, so that the linker cannot take one form's function for another's.
//
// A form provides `Floats`, `Words` and `Mask` of sixteen lanes, and these functions. All forms give the same bits for
// finite numbers; forms/generic.h is the definition:
//
//   splat, load, store, + - * /, fma = a b + c, fnma = c - a b
//   fma_bf16: fma where a and b are widened from bfloat16, which a form may compute otherwise
//   min = a < b ? a : b and max = a > b ? a : b, so that a NaN in `a` is dropped and one in `b` is kept
//   Words: + - & |, shift_left, shift_right (zeros come in), max; additions wrap
//   bits, floats: the same bits as another type
//   to_floats; to_words: to nearest, ties to even; INT32_MIN for what an int32 cannot hold
//   lanes(from, to): a mask of the lanes in [from, to); select(mask, a, b): a where the mask is set
//   reduce_add: (((x0 + x8) + (x4 + x12)) + ...), by halves; reduce_max, reduce_min
//   load_halves, store_halves: sixteen unsigned 16-bit numbers, zeros above
//   load_signed, store_signed, store_bytes: sixteen (or 64) signed or unsigned bytes; stores saturate
//   store_weights: see exponent.h
//   transpose: sixteen rows of sixteen words
//   Multiplier: see product.h
//   kScoreRows, kScorePanels: see scores.cpp
#pragma once

#if defined(OCTAVO_AVX512)
#include "forms/amx.h"
#elif defined(OCTAVO_AVX2)
#include "forms/avx2.h"
#elif defined(OCTAVO_NEON)
#include "forms/neon.h"
#else
#include "forms/generic.h"
#endif

namespace octavo::OCTAVO_FORM {

// --- bfloat16 -------------------------------------------------------------------------------------------------------

OCTAVO_INLINE float widened(Bf16 x) {
  const uint32_t wide = static_cast<uint32_t>(x) << 16;
  float result;
  __builtin_memcpy(&result, &wide, sizeof result);
  return result;
}

OCTAVO_INLINE Floats load_bf16(const Bf16* p) { return floats(shift_left<16>(load_halves(p))); }

// Rounds to nearest, ties to even; the sixteen bits are in the lower halves. vcvtneps2bf16 would flush denormals. All but
// NaN is as in PyTorch.
OCTAVO_INLINE Words round_bf16(Floats x) {
  const Words odd = shift_right<16>(bits(x)) & splat(1);
  return shift_right<16>(bits(x) + odd + splat(0x7fff));
}

OCTAVO_INLINE void store_bf16(Bf16* p, Floats x) { store_halves(p, round_bf16(x)); }

}  // namespace octavo::OCTAVO_FORM
