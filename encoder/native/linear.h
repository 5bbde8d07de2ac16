// The 8-bit linear map over a block of rows, a panel of 32 outputs at a time, fused with the operation that follows.
//
// A packed weight is a sequence of panels: for every four inputs the words of 32 outputs, then the initial values of
// sums (see product.h): minus the zero point times the sum of each output's weights.
#pragma once

#include "product.h"
#include "rows.h"
#include "scratch.h"

namespace octavo::OCTAVO_ISA {

constexpr int64_t panel_words(int64_t inputs) { return (inputs / 4 + 1) * kPanel; }

// Outlier columns of a panel, as pairs of bfloat16, padded with zero to an even number.
inline void pack_outliers(const Linear& linear, int64_t output, Word* panel) {
  const auto load = [&](int64_t outlier, int64_t column) {
    if (outlier >= linear.input.outliers) return _mm512_setzero_si512();
    const Bf16* p = linear.outlier_weight + outlier * linear.outputs + column;
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  for (int64_t o = 0; o < linear.input.outliers; o += 2)
    for (int64_t column = 0; column < kPanel; column += kLanes) {
      const __m512i high = _mm512_slli_epi32(load(o + 1, output + column), 16);
      _mm512_storeu_si512(panel + o / 2 * kPanel + column, _mm512_or_si512(load(o, output + column), high));
    }
}

// Computes the exact sums of one panel: (count, 32).
OCTAVO_INLINE void multiply_panel(Multiplier& multiplier, const uint8_t* q, int64_t count, int64_t inputs,
                                  const int8_t* packed, int64_t output, int32_t* sums) {
  const int64_t steps = inputs / 4;
  const Word* panel = reinterpret_cast<const Word*>(packed) + output / kPanel * panel_words(inputs);
  multiplier.multiply<DotBytes, Begin::kPanelRow>(
      {reinterpret_cast<const Word*>(q), steps, count, panel, 0, 2, steps, reinterpret_cast<Word*>(sums), kPanel});
}

// A block's scratch memory for one panel at a time.
struct PanelScratch {
  int32_t* sums;        // (rows, 32)
  Word* outlier_rows;   // (rows, outlier_words): the rows' outliers as pairs, zero-padded
  Word* outlier_panel;  // (outlier_words, 32): the panel's outlier weights
  int64_t outlier_words;

  PanelScratch(Scratch& scratch, const Rows& rows, int64_t count, int64_t outliers)
      : outlier_words((outliers + 1) / 2) {
    sums = scratch.take<int32_t>(count * kPanel);
    outlier_rows = scratch.take<Word>(count * outlier_words);
    outlier_panel = scratch.take<Word>(outlier_words * kPanel);
    for (int64_t r = 0; outliers && r < count; ++r) {
      outlier_rows[(r + 1) * outlier_words - 1] = 0;
      __builtin_memcpy(outlier_rows + r * outlier_words, rows.outliers + r * outliers,
                       static_cast<size_t>(outliers) * sizeof(Bf16));
    }
  }
};

// Calls then(row, output, y, z) for every 32 outputs of each row: y is the first half, z the second. Outliers are few,
// so they are added here instead of in a separate product, which would have to store its sums.
template <class Then>
OCTAVO_INLINE void apply_linear(Multiplier& multiplier, Scratch& scratch, const Rows& rows, int64_t count,
                                const Linear& linear, Then then) {
  const PanelScratch panel(scratch, rows, count, linear.input.outliers);
  for (int64_t output = 0; output < linear.outputs; output += kPanel) {
    multiply_panel(multiplier, rows.q, count, linear.inputs, linear.packed, output, panel.sums);
    pack_outliers(linear, output, panel.outlier_panel);
    const __m512 scale[2] = {_mm512_loadu_ps(linear.scale + output), _mm512_loadu_ps(linear.scale + output + kLanes)};
    const __m512 bias[2] = {_mm512_loadu_ps(linear.bias + output), _mm512_loadu_ps(linear.bias + output + kLanes)};
    for (int64_t r = 0; r < count; ++r) {
      const __m512 row_scale = _mm512_set1_ps(rows.scale[r]);
      __m512i y[2];
      for (int half = 0; half < 2; ++half) {
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(panel.sums + r * kPanel + half * kLanes));
        y[half] = _mm512_castps_si512(_mm512_fmadd_ps(sum, _mm512_mul_ps(scale[half], row_scale), bias[half]));
      }
      for (int64_t w = 0; w < panel.outlier_words; ++w) {
        const __m512i pair = _mm512_set1_epi32(static_cast<int>(panel.outlier_rows[r * panel.outlier_words + w]));
        const Word* column = panel.outlier_panel + w * kPanel;
        for (int half = 0; half < 2; ++half)
          y[half] = DotBf16::add(y[half], pair, _mm512_loadu_si512(column + half * kLanes));
      }
      then(r, output, _mm512_castsi512_ps(y[0]), _mm512_castsi512_ps(y[1]));
    }
  }
}

}  // namespace octavo::OCTAVO_ISA
