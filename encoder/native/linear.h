// The 8-bit linear map over a block of rows, a panel of 32 outputs at a time, fused with the operation that follows.
//
// A packed weight is a sequence of panels: for every four inputs the words of 32 outputs, then the initial values of
// sums (see product.h): minus the zero point times the sum of each output's weights.
#pragma once

#include "rows.h"
#include "scratch.h"

namespace octavo::OCTAVO_FORM {

constexpr int64_t panel_words(int64_t inputs) { return (inputs / 4 + 1) * kPanel; }

// Computes the exact sums of one panel: (count, 32).
OCTAVO_INLINE void multiply_panel(Multiplier& multiplier, const uint8_t* q, int64_t count, int64_t inputs,
                                  const int8_t* packed, int64_t output, int32_t* sums) {
  const int64_t steps = inputs / 4;
  const Word* panel = reinterpret_cast<const Word*>(packed) + output / kPanel * panel_words(inputs);
  multiplier.multiply(
      {reinterpret_cast<const Word*>(q), steps, count, panel, 0, 2, steps, reinterpret_cast<Word*>(sums), kPanel},
      Begin::kPanelRow);
}

// Calls then(row, output, y, z) for every 32 outputs of each row: y is the first half, z the second. Outliers are few,
// so they are added here instead of in a separate product, which would have to store its sums.
template <class Then>
OCTAVO_INLINE void apply_linear(Multiplier& multiplier, Scratch& scratch, const Rows& rows, int64_t count,
                                const Linear& linear, Then then) {
  const int64_t outliers = linear.input.outliers;
  int32_t* sums = scratch.take<int32_t>(count * kPanel);
  float* kept = scratch.take<float>(count * outliers);
  float* kept_weight = scratch.take<float>(outliers * kPanel);
  for (int64_t i = 0; i < count * outliers; ++i) kept[i] = widened(rows.outliers[i]);
  for (int64_t output = 0; output < linear.outputs; output += kPanel) {
    multiply_panel(multiplier, rows.q, count, linear.inputs, linear.packed, output, sums);
    for (int64_t o = 0; o < outliers; ++o)
      for (int64_t half = 0; half < kPanel; half += kLanes)
        store(kept_weight + o * kPanel + half, load_bf16(linear.outlier_weight + o * linear.outputs + output + half));
    const Floats scale[2] = {load(linear.scale + output), load(linear.scale + output + kLanes)};
    const Floats bias[2] = {load(linear.bias + output), load(linear.bias + output + kLanes)};
    for (int64_t r = 0; r < count; ++r) {
      const Floats row_scale = splat(rows.scale[r]);
      Floats y[2];
      for (int half = 0; half < 2; ++half) {
        const Floats sum = to_floats(load(sums + r * kPanel + half * kLanes));
        y[half] = fma(sum, scale[half] * row_scale, bias[half]);
      }
      for (int64_t o = 0; o < outliers; ++o) {
        const Floats x = splat(kept[r * outliers + o]);
        for (int half = 0; half < 2; ++half)
          y[half] = fma_bf16(x, load(kept_weight + o * kPanel + half * kLanes), y[half]);
      }
      then(r, output, y[0], y[1]);
    }
  }
}

}  // namespace octavo::OCTAVO_FORM
