// What is done to one row at a time: quantising it, and normalising it.
#pragma once

#include "simd.h"

namespace octavo::OCTAVO_ISA {

// Largest and smallest of v = x * factor, as they are seen so far; zero counts among them.
struct Range {
  __m512 most = _mm512_setzero_ps();
  __m512 least = _mm512_setzero_ps();

  OCTAVO_INLINE void add(__m512 v) {
    most = _mm512_max_ps(v, most);
    least = _mm512_min_ps(v, least);
  }
};

// A row's scale, from its range. Under 1e-36, where a reciprocal would leave float's range, a row counts as zeros.
OCTAVO_INLINE float scale_of(const Range& range, int32_t zero) {
  const float above = _mm512_reduce_max_ps(range.most) / static_cast<float>(255 - zero);
  const float below = -_mm512_reduce_min_ps(range.least) / static_cast<float>(zero);
  const float scale = above > below ? above : below;
  return scale < 1e-36f ? 0.0f : scale;
}

// No need to hold the bytes within 0 to 255: the scale is chosen so that v / scale, off by a millionth, rounds to
// within.
OCTAVO_INLINE void store_bytes(uint8_t* q, __m512 v, __m512 per_step, __m512i zero) {
  const __m512i steps = _mm512_cvtps_epi32(_mm512_mul_ps(v, per_step));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(_mm512_add_epi32(steps, zero)));
}

inline Bf16 round_bf16(float x) { return static_cast<Bf16>(_mm256_extract_epi16(round_bf16(_mm512_set1_ps(x)), 0)); }

// Quantises one row of floats, whose range (of x * factor) the caller knows.
OCTAVO_INLINE void quantise_row(const float* x, int64_t size, const Range& range, const Quantiser& to, uint8_t* q,
                                float* scale, Bf16* outliers) {
  *scale = scale_of(range, to.zero);
  const __m512 per_step = _mm512_set1_ps(*scale > 0 ? 1.0f / *scale : 0.0f);
  const __m512i zero = _mm512_set1_epi32(to.zero);
  for (int64_t i = 0; i < size; i += kLanes)
    store_bytes(q + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(to.factor + i)), per_step, zero);
  for (int64_t o = 0; o < to.outliers; ++o) outliers[o] = round_bf16(x[to.columns[o]]);
}

// Widens a row of bfloat16, and finds its range.
OCTAVO_INLINE Range widen_row(const Bf16* x, int64_t size, const Quantiser& to, float* out) {
  Range range;
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 v = load_bf16(x + i);
    _mm512_storeu_ps(out + i, v);
    range.add(_mm512_mul_ps(v, _mm512_loadu_ps(to.factor + i)));
  }
  return range;
}

// Normalises a row in place (Ba et al., 2016), rounds it to bfloat16 into `state`, and keeps the rounded numbers in
// `x`. Two passes over a row that lies in the first-level cache: exact where one pass would cancel.
OCTAVO_INLINE void normalise_row(float* x, int64_t size, const Norm& norm, Bf16* state) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / static_cast<float>(size));
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
    squares = _mm512_fmadd_ps(d, d, squares);
  }
  const float variance = _mm512_reduce_add_ps(squares) / static_cast<float>(size);
  const __m512 per_deviation = _mm512_set1_ps(1.0f / std::sqrt(variance + norm.eps));
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), per_deviation);
    const __m256i rounded =
        round_bf16(_mm512_fmadd_ps(d, _mm512_loadu_ps(norm.weight + i), _mm512_loadu_ps(norm.bias + i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(state + i), rounded);
    _mm512_storeu_ps(x + i, widen(rounded));
  }
}

OCTAVO_INLINE Range range_of(const float* x, int64_t size, const Quantiser& to) {
  Range range;
  for (int64_t i = 0; i < size; i += kLanes)
    range.add(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(to.factor + i)));
  return range;
}

}  // namespace octavo::OCTAVO_ISA
