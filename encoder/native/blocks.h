// The operations of a layer over one block of rows, used separately by linear.cpp and in sequence by layer.cpp.
#pragma once

#include "activation.h"
#include "linear.h"

namespace octavo::OCTAVO_FORM {

// Rows per block. A layer's weights are read once per block, from the L2 or L3 cache, and the data between two products
// (rows * intermediate floats) should fit in L2. Measured on a Zen 5: from 24 to 120 rows the differences are noise.
constexpr int64_t kBlockRows = Multiplier::kTiles ? 64 : 48;

inline Rows advance(const Rows& rows, int64_t row, int64_t inputs, int64_t outliers) {
  return {rows.q + row * inputs, rows.scale + row, rows.outliers + row * outliers};
}

inline Rows take_rows(Scratch& scratch, int64_t count, int64_t inputs, int64_t outliers) {
  return {scratch.take<uint8_t>(count * inputs), scratch.take<float>(count), scratch.take<Bf16>(count * outliers)};
}

inline void quantise_block(Scratch& scratch, const Bf16* x, int64_t count, int64_t inputs, const Quantiser& to,
                           const Rows& out) {
  float* v = scratch.take<float>(inputs);
  for (int64_t r = 0; r < count; ++r) {
    const Range range = scale_row(x + r * inputs, inputs, to, v);
    quantise_row(v, inputs, range, to.zero, out.q + r * inputs, out.scale + r);
    keep_outliers(x + r * inputs, to, out.outliers + r * to.outliers);
  }
}

inline void linear_block(Multiplier& multiplier, Scratch& scratch, const Rows& rows, int64_t count,
                         const Linear& linear, Bf16* out) {
  apply_linear(multiplier, scratch, rows, count, linear, [&](int64_t r, int64_t column, Floats y, Floats z) {
    store_bf16(out + r * linear.outputs + column, y);
    store_bf16(out + r * linear.outputs + column + kLanes, z);
  });
}

template <Activation A>
void activate_block(Multiplier& multiplier, Scratch& scratch, const Rows& rows, int64_t count, const Linear& linear,
                    const Quantiser& to, const Rows& out) {
  float* wide = scratch.take<float>(count * linear.outputs);
  Range* ranges = scratch.take<Range>(count);
  for (int64_t r = 0; r < count; ++r) ranges[r] = Range();
  int64_t outlier = 0, next = 0;  // of the current panel: [outlier, next)
  apply_linear(multiplier, scratch, rows, count, linear, [&](int64_t r, int64_t column, Floats y, Floats z) {
    const Floats left = activate<A>(y), right = activate<A>(z);
    if (r == 0)
      for (outlier = next; next < to.outliers && to.columns[next] < column + kPanel;) ++next;
    for (int64_t o = outlier; o < next; ++o)
      out.outliers[r * to.outliers + o] = pick_bf16(left, right, to.columns[o] - column);
    const Floats v = left * load(to.factor + column), w = right * load(to.factor + column + kLanes);
    store(wide + r * linear.outputs + column, v);
    store(wide + r * linear.outputs + column + kLanes, w);
    Range range = ranges[r];
    range.add(v);
    range.add(w);
    ranges[r] = range;
  });
  for (int64_t r = 0; r < count; ++r)
    quantise_row(wide + r * linear.outputs, linear.outputs, ranges[r], to.zero, out.q + r * linear.outputs,
                 out.scale + r);
}

inline void activate_block(Multiplier& multiplier, Scratch& scratch, const Rows& rows, int64_t count,
                           const Linear& linear, Activation activation, const Quantiser& to, const Rows& out) {
  switch (activation) {
    case Activation::kGelu:
      return activate_block<Activation::kGelu>(multiplier, scratch, rows, count, linear, to, out);
    case Activation::kGeluTanh:
      return activate_block<Activation::kGeluTanh>(multiplier, scratch, rows, count, linear, to, out);
    case Activation::kRelu:
      return activate_block<Activation::kRelu>(multiplier, scratch, rows, count, linear, to, out);
  }
}

// `state` may be `residual`.
inline void norm_block(Multiplier& multiplier, Scratch& scratch, const Rows& rows, int64_t count, const Linear& linear,
                       const Bf16* residual, const Norm& norm, const Quantiser* to, Bf16* state, const Rows* out) {
  const int64_t size = linear.outputs;
  float* x = scratch.take<float>(count * size);
  apply_linear(multiplier, scratch, rows, count, linear, [&](int64_t r, int64_t column, Floats y, Floats z) {
    const int64_t i = r * size + column;
    store(x + i, y + load_bf16(residual + i));
    store(x + i + kLanes, z + load_bf16(residual + i + kLanes));
  });
  for (int64_t r = 0; r < count; ++r) {
    float* row = x + r * size;
    const Range range = normalise_row(row, size, norm, to, state + r * size);
    if (to == nullptr) continue;
    quantise_row(row, size, range, to->zero, out->q + r * size, out->scale + r);
    keep_outliers(state + r * size, *to, out->outliers + r * to->outliers);
  }
}

}  // namespace octavo::OCTAVO_FORM
