// Operations on one row at a time: quantising and normalising.
#pragma once

#include "vectors.h"

namespace octavo::OCTAVO_FORM {

// Running maximum and minimum of v = x * factor, starting from zero.
struct Range {
  Floats most = splat(0.0f);
  Floats least = splat(0.0f);

  OCTAVO_INLINE void add(Floats v) {
    most = max(v, most);
    least = min(v, least);
  }
};

// A row's scale, from its range. Below 1e-36, where a reciprocal would overflow, a row counts as zeros.
OCTAVO_INLINE float scale_of(const Range& range, int32_t zero) {
  const float above = reduce_max(range.most) / static_cast<float>(255 - zero);
  const float below = -reduce_min(range.least) / static_cast<float>(zero);
  const float scale = above > below ? above : below;
  return scale < 1e-36f ? 0.0f : scale;
}

// Quantises one row of v with a known range; its length is a multiple of 32.
OCTAVO_INLINE void quantise_row(const float* v, int64_t size, const Range& range, int32_t zero, uint8_t* q,
                                float* scale) {
  *scale = scale_of(range, zero);
  const Floats per_step = splat(*scale > 0 ? 1.0f / *scale : 0.0f);
  const Floats offset = splat(static_cast<float>(zero));
  const auto steps = [&](int64_t i) { return to_words(fma(load(v + i), per_step, offset)); };
  int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes)
    store_bytes(q + i, {steps(i), steps(i + kLanes), steps(i + 2 * kLanes), steps(i + 3 * kLanes)});
  for (; i < size; i += kLanes) store_bytes(q + i, steps(i));
}

// Element `index` of the 32 in two vectors, rounded.
inline Bf16 pick_bf16(Floats left, Floats right, int64_t index) {
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
    const Floats scaled = load_bf16(x + i) * load(to.factor + i);
    store(v + i, scaled);
    range.add(scaled);
  }
  return range;
}

// Normalises a row (Ba et al., 2016) and rounds it to bfloat16 into `state`. If it is to be quantised, leaves the
// rounded numbers times their factors in `x` and returns their range. Two passes over a row in L1 avoid the
// cancellation of one pass.
OCTAVO_INLINE Range normalise_row(float* x, int64_t size, const Norm& norm, const Quantiser* to, Bf16* state) {
  // Two independent sums; sizes are multiples of 32.
  Floats even = splat(0.0f), odd = splat(0.0f);
  for (int64_t i = 0; i < size; i += 2 * kLanes) {
    even = even + load(x + i);
    odd = odd + load(x + i + kLanes);
  }
  const Floats mean = splat(reduce_add(even + odd) / static_cast<float>(size));
  even = odd = splat(0.0f);
  for (int64_t i = 0; i < size; i += 2 * kLanes) {
    const Floats a = load(x + i) - mean, b = load(x + i + kLanes) - mean;
    even = fma(a, a, even);
    odd = fma(b, b, odd);
  }
  const float variance = reduce_add(even + odd) / static_cast<float>(size);
  Range range;
  const Floats per_deviation = splat(1.0f / __builtin_sqrtf(variance + norm.eps));
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats d = (load(x + i) - mean) * per_deviation;
    const Words rounded = round_bf16(fma(d, load(norm.weight + i), load(norm.bias + i)));
    store_halves(state + i, rounded);
    if (to == nullptr) continue;
    const Floats scaled = floats(shift_left<16>(rounded)) * load(to->factor + i);
    store(x + i, scaled);
    range.add(scaled);
  }
  return range;
}

}  // namespace octavo::OCTAVO_FORM
