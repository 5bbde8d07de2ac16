// AVX-512 with VNNI: one register for each vector.
#pragma once

#include <immintrin.h>

#include "exponent.h"

namespace octavo::OCTAVO_FORM {

struct Floats {
  __m512 v;
};
struct Words {
  __m512i v;
};
using Mask = __mmask16;

OCTAVO_INLINE Floats splat(float x) { return {_mm512_set1_ps(x)}; }
OCTAVO_INLINE Words splat(int32_t x) { return {_mm512_set1_epi32(x)}; }
OCTAVO_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
OCTAVO_INLINE Words load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
OCTAVO_INLINE void store(float* p, Floats x) { _mm512_storeu_ps(p, x.v); }
OCTAVO_INLINE void store(int32_t* p, Words x) { _mm512_storeu_si512(p, x.v); }

OCTAVO_INLINE Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
OCTAVO_INLINE Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
OCTAVO_INLINE Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
OCTAVO_INLINE Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
OCTAVO_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
OCTAVO_INLINE Floats fnma(Floats a, Floats b, Floats c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
OCTAVO_INLINE Floats fma_bf16(Floats a, Floats b, Floats c) { return fma(a, b, c); }
OCTAVO_INLINE Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
OCTAVO_INLINE Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }

OCTAVO_INLINE Words operator+(Words a, Words b) { return {_mm512_add_epi32(a.v, b.v)}; }
OCTAVO_INLINE Words operator-(Words a, Words b) { return {_mm512_sub_epi32(a.v, b.v)}; }
OCTAVO_INLINE Words operator&(Words a, Words b) { return {_mm512_and_si512(a.v, b.v)}; }
OCTAVO_INLINE Words operator|(Words a, Words b) { return {_mm512_or_si512(a.v, b.v)}; }
OCTAVO_INLINE Words max(Words a, Words b) { return {_mm512_max_epi32(a.v, b.v)}; }
template <int N>
OCTAVO_INLINE Words shift_left(Words a) {
  return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
OCTAVO_INLINE Words shift_right(Words a) {
  return {_mm512_srli_epi32(a.v, N)};
}

OCTAVO_INLINE Words bits(Floats x) { return {_mm512_castps_si512(x.v)}; }
OCTAVO_INLINE Floats floats(Words x) { return {_mm512_castsi512_ps(x.v)}; }
OCTAVO_INLINE Floats to_floats(Words x) { return {_mm512_cvtepi32_ps(x.v)}; }
OCTAVO_INLINE Words to_words(Floats x) { return {_mm512_cvtps_epi32(x.v)}; }

OCTAVO_INLINE Mask lanes(int64_t from, int64_t to) {
  const auto below = [](int64_t n) { return n <= 0 ? 0u : n >= kLanes ? 0xffffu : (1u << n) - 1; };
  return static_cast<Mask>(below(to) & ~below(from));
}
OCTAVO_INLINE Words select(Mask mask, Words a, Words b) { return {_mm512_mask_mov_epi32(b.v, mask, a.v)}; }

// The compiler's reductions are trees over halves too, but nothing promises that they stay so.
OCTAVO_INLINE float reduce_add(Floats x) {
  const __m256 eight =
      _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1)));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
OCTAVO_INLINE float reduce_max(Floats x) { return _mm512_reduce_max_ps(x.v); }
OCTAVO_INLINE float reduce_min(Floats x) { return _mm512_reduce_min_ps(x.v); }
// _mm512_reduce_add_epi32 ends with a sum of two ints, which must not wrap.
OCTAVO_INLINE int32_t reduce_add(Words x) {
  const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(x.v), _mm512_extracti64x4_epi64(x.v, 1));
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
OCTAVO_INLINE int32_t reduce_max(Words x) { return _mm512_reduce_max_epi32(x.v); }

OCTAVO_INLINE Words load_halves(const Bf16* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
OCTAVO_INLINE void store_halves(Bf16* p, Words x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
}

OCTAVO_INLINE Words load_signed(const int8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
OCTAVO_INLINE void store_signed(int8_t* p, Words x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x.v));
}
OCTAVO_INLINE void store_bytes(uint8_t* p, Words x) {
  const __m512i positive = _mm512_max_epi32(x.v, _mm512_setzero_si512());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(positive));
}

// Restores the order of words after packing twice within lanes of four words, which transposes lanes.
OCTAVO_INLINE __m512i untangle(__m512i packed) {
  return _mm512_permutexvar_epi32(_mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0), packed);
}

OCTAVO_INLINE void store_bytes(uint8_t* p, const Words (&x)[4]) {
  const __m512i left = _mm512_packs_epi32(x[0].v, x[1].v), right = _mm512_packs_epi32(x[2].v, x[3].v);
  _mm512_storeu_si512(p, untangle(_mm512_packus_epi16(left, right)));
}

// Twenty-three instructions for 64 weights and their sum.
OCTAVO_INLINE void store_weights(uint8_t* p, const Words (&below)[4], Words& sum) {
  const __m512i low = _mm512_load_si512(kPowers.at), high = _mm512_load_si512(kPowers.at + 32);
  const auto fine = [&](Words a, Words b) {
    const __m512i x = _mm512_packus_epi32(a.v, b.v);
    return _mm512_srlv_epi16(_mm512_permutex2var_epi16(low, x, high), _mm512_srli_epi16(x, 6));
  };
  const __m512i left = fine(below[0], below[1]), right = fine(below[2], below[3]);
  const __m512i ones = _mm512_set1_epi16(1), round = _mm512_set1_epi16(256);
  sum.v = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum.v, left, ones), right, ones);
  const __m512i bytes = _mm512_packus_epi16(_mm512_mulhrs_epi16(left, round), _mm512_mulhrs_epi16(right, round));
  _mm512_storeu_si512(p, untangle(bytes));
}

// Sixty-four shuffles, where gathering takes 256 loads.
OCTAVO_INLINE void transpose(Words (&rows)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i].v = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1].v = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2].v = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3].v = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i].v, rows[i + 4].v, 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i].v, rows[i + 4].v, 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8].v, rows[i + 12].v, 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8].v, rows[i + 12].v, 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i].v = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8].v = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4].v = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12].v = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Rows, and vectors of scores, computed at once: so many sums, weights and inputs fit the registers.
constexpr int kScoreRows = 8, kScorePanels = 3;

// --- Products -------------------------------------------------------------------------------------------------------

// Rows of C computed at once. Twelve rows by two vectors keep 24 sums in registers, with two loads and twelve
// broadcasts for 24 dots: 98 % of a Zen 5 core's peak from L1 or L2 (1.04 to 1.1 TOPS).
constexpr int kRegisterRows = 12;

// Adds the products of four unsigned bytes with four signed ones in each lane. Inline assembly, because GCC 12 copies
// and spills the sums around the intrinsic (0.50 instead of 1.05 TOPS).
OCTAVO_INLINE __m512i dot(__m512i sum, __m512i a, __m512i b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

template <int Rows, int Vectors>
OCTAVO_INLINE void register_tile(const Product& p, Begin begin, const Word* panel, Word* c) {
  __m512i sums[Rows][Vectors];
  OCTAVO_UNROLL
  for (int r = 0; r < Rows; ++r)
    OCTAVO_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Word* from = begin == Begin::kC ? c + r * p.c_stride : panel + p.steps * kPanel;
      sums[r][v] = begin == Begin::kZero ? _mm512_setzero_si512() : _mm512_loadu_si512(from + v * kLanes);
    }
  for (int64_t k = 0; k < p.steps; ++k) {
    __m512i columns[Vectors];
    OCTAVO_UNROLL
    for (int v = 0; v < Vectors; ++v) columns[v] = _mm512_loadu_si512(panel + k * kPanel + v * kLanes);
    OCTAVO_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m512i word = _mm512_set1_epi32(static_cast<int>(p.a[r * p.a_stride + k]));
      OCTAVO_UNROLL
      for (int v = 0; v < Vectors; ++v) sums[r][v] = dot(sums[r][v], word, columns[v]);
    }
  }
  OCTAVO_UNROLL
  for (int r = 0; r < Rows; ++r)
    OCTAVO_UNROLL
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_si512(c + r * p.c_stride + v * kLanes, sums[r][v]);
}

// Multiplies at most twelve rows with all panels.
template <int Rows>
void register_rows(const Product& p, Begin begin) {
  for (int64_t v = 0; v < p.vectors; v += 2) {
    const Word* panel = p.panels + v / 2 * p.panel_stride;
    Word* c = p.c + v * kLanes;
    if (v + 1 < p.vectors)
      register_tile<Rows, 2>(p, begin, panel, c);
    else
      register_tile<Rows, 1>(p, begin, panel, c);
  }
}

inline void register_product(Product p, Begin begin) {
  while (p.rows > 0) {
    const int64_t rows = smaller(p.rows, kRegisterRows);
    with_rows<kRegisterRows>(rows, [&]<int Rows>() { register_rows<Rows>(p, begin); });
    p.a += rows * p.a_stride;
    p.c += rows * p.c_stride;
    p.rows -= rows;
  }
}

}  // namespace octavo::OCTAVO_FORM
