// Vectors of sixteen 32-bit numbers, shared by the kernels, for the instruction set they are compiled for.
//
// OCTAVO_ISA is the name of the set (vnni, bf16, amx, amx_emulated) and of the namespace, so that one library can
// contain all sets without linking an inline function of one into another.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels.h"

#ifndef OCTAVO_ISA
#error "compile with -DOCTAVO_ISA=vnni, bf16, amx or amx_emulated"
#endif

#define OCTAVO_INLINE inline __attribute__((always_inline))

namespace octavo::OCTAVO_ISA {

constexpr int64_t kLanes = 16;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// --- bfloat16 -------------------------------------------------------------------------------------------------------

OCTAVO_INLINE __m512 widen(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

OCTAVO_INLINE __m512 load_bf16(const Bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

// Rounds to nearest, ties to even, as PyTorch does.
OCTAVO_INLINE __m256i round_bf16(__m512 x) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(bits, half), 16));
#endif
}

OCTAVO_INLINE void store_bf16(Bf16* p, __m512 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_bf16(x)); }

// --- Products of 32-bit words ---------------------------------------------------------------------------------------
// A word has two bfloat16 or four bytes. A dot adds the product of two words to a 32-bit sum, in each lane. It is
// inline assembly because GCC 12 copies and spills the sums around the intrinsics (0.50 instead of 1.05 TOPS).

struct DotBf16 {
  static OCTAVO_INLINE __m512i add(__m512i sum, __m512i a, __m512i b) {
#ifdef __AVX512BF16__
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const auto low_of = [](__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); };
    const auto high_of = [high](__m512i x) { return _mm512_castsi512_ps(_mm512_and_si512(x, high)); };
    const __m512 lows = _mm512_fmadd_ps(low_of(a), low_of(b), _mm512_castsi512_ps(sum));
    return _mm512_castps_si512(_mm512_fmadd_ps(high_of(a), high_of(b), lows));
#endif
  }
};

struct DotBytes {  // a unsigned, b signed; exact as long as the sum fits 32 bits
  static OCTAVO_INLINE __m512i add(__m512i sum, __m512i a, __m512i b) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};

// --- Bytes -----------------------------------------------------------------------------------------------------------

// Restores the order of words after packing twice within lanes of four words, which transposes lanes.
OCTAVO_INLINE __m512i untangle(__m512i packed) {
  return _mm512_permutexvar_epi32(_mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0), packed);
}

// Packs sixty-four numbers from 0 to 255, in order.
OCTAVO_INLINE __m512i to_bytes(__m512i a, __m512i b, __m512i c, __m512i d) {
  return untangle(_mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)));
}

// --- Transposing ----------------------------------------------------------------------------------------------------

// Transposes 16 x 16 words in sixteen vectors with 64 shuffles, where gathering takes 256 loads.
OCTAVO_INLINE void transpose(__m512i (&rows)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

}  // namespace octavo::OCTAVO_ISA
