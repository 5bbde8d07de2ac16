// Operations on one row at a time: quantising and normalising.
#pragma once

#include "simd.h"

namespace octavo::OCTAVO_ISA {

// Running maximum and minimum of v = x * factor, starting from zero.
struct Range {
  __m512 most = _mm512_setzero_ps();
  __m512 least = _mm512_setzero_ps();

  OCTAVO_INLINE void add(__m512 v) {
    most = _mm512_max_ps(v, most);
    least = _mm512_min_ps(v, least);
  }
};

// A row's scale, from its range. Below 1e-36, where a reciprocal would overflow, a row counts as zeros.
OCTAVO_INLINE float scale_of(const Range& range, int32_t zero) {
  const float above = _mm512_reduce_max_ps(range.most) / static_cast<float>(255 - zero);
  const float below = -_mm512_reduce_min_ps(range.least) / static_cast<float>(zero);
  const float scale = above > below ? above : below;
  return scale < 1e-36f ? 0.0f : scale;
}

// Quantises one row of v with a known range; its length is a multiple of 32.
OCTAVO_INLINE void quantise_row(const float* v, int64_t size, const Range& range, int32_t zero, uint8_t* q,
                                float* scale) {
  *scale = scale_of(range, zero);
  const __m512 per_step = _mm512_set1_ps(*scale > 0 ? 1.0f / *scale : 0.0f);
  const __m512 offset = _mm512_set1_ps(static_cast<float>(zero));
  const auto steps = [&](int64_t i) {
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_loadu_ps(v + i), per_step, offset));
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes)
    _mm512_storeu_si512(q + i, to_bytes(steps(i), steps(i + kLanes), steps(i + 2 * kLanes), steps(i + 3 * kLanes)));
  for (; i < size; i += kLanes) _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtepi32_epi8(steps(i)));
}

// Element `index` of the 32 in two vectors, rounded.
inline Bf16 pick_bf16(__m512 left, __m512 right, int64_t index) {
  Bf16 both[2 * kLanes];
  store_bf16(both, left);
  store_bf16(both + kLanes, right);
  return both[index];
}

inline void keep_outliers(const Bf16* x, const Quantiser& to, Bf16* outliers) {
  for (int64_t o = 0; o < to.outliers; ++o) outliers[o] = x[to.columns[o]];
}

// Multiplies a row by its factors, and finds the range of the result.
OCTAVO_INLINE Range scale_row(const Bf16* x, int64_t size, const Quantiser& to, float* v) {
  Range range;
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 scaled = _mm512_mul_ps(load_bf16(x + i), _mm512_loadu_ps(to.factor + i));
    _mm512_storeu_ps(v + i, scaled);
    range.add(scaled);
  }
  return range;
}

// Normalises a row (Ba et al., 2016) and rounds it to bfloat16 into `state`. If it is to be quantised, leaves the
// rounded numbers times their factors in `x` and returns their range. Two passes over a row in L1 avoid the
// cancellation of one pass.
OCTAVO_INLINE Range normalise_row(float* x, int64_t size, const Norm& norm, const Quantiser* to, Bf16* state) {
  // Two independent sums; sizes are multiples of 32.
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 2 * kLanes) {
    even = _mm512_add_ps(even, _mm512_loadu_ps(x + i));
    odd = _mm512_add_ps(odd, _mm512_loadu_ps(x + i + kLanes));
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(even, odd)) / static_cast<float>(size));
  even = odd = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 2 * kLanes) {
    const __m512 a = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
    const __m512 b = _mm512_sub_ps(_mm512_loadu_ps(x + i + kLanes), mean);
    even = _mm512_fmadd_ps(a, a, even);
    odd = _mm512_fmadd_ps(b, b, odd);
  }
  const float variance = _mm512_reduce_add_ps(_mm512_add_ps(even, odd)) / static_cast<float>(size);
  Range range;
  const __m512 per_deviation = _mm512_set1_ps(1.0f / std::sqrt(variance + norm.eps));
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), per_deviation);
    const __m256i rounded =
        round_bf16(_mm512_fmadd_ps(d, _mm512_loadu_ps(norm.weight + i), _mm512_loadu_ps(norm.bias + i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(state + i), rounded);
    if (to == nullptr) continue;
    const __m512 scaled = _mm512_mul_ps(widen(rounded), _mm512_loadu_ps(to->factor + i));
    _mm512_storeu_ps(x + i, scaled);
    range.add(scaled);
  }
  return range;
}

}  // namespace octavo::OCTAVO_ISA
