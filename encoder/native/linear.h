// The 8-bit linear map over a block of rows, a panel of 32 outputs at a time, with what follows it done on the panel.
//
// A packed weight is its panels one after another: for each four inputs the words of 32 outputs (see product.h), and
// after them 32 whole numbers, the zero point times the sum of each output's weights, which products of bytes around
// that zero point hold too much.
#pragma once

#include "product.h"
#include "rows.h"
#include "scratch.h"

namespace octavo::OCTAVO_ISA {

constexpr int64_t panel_words(int64_t inputs) { return (inputs / 4 + 1) * kPanel; }

// Outlier columns of a panel, as pairs of bfloat16: an even number, the last one zero where there are an odd number.
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

// The exact sums of one panel: (count, 32), with the zero point's share still in them. Returns that share, 32 of them.
OCTAVO_INLINE const Word* multiply_panel(Multiplier& multiplier, const uint8_t* q, int64_t count, int64_t inputs,
                                         const int8_t* packed, int64_t output, int32_t* sums) {
  const int64_t steps = inputs / 4;
  const Word* panel = reinterpret_cast<const Word*>(packed) + output / kPanel * panel_words(inputs);
  multiplier.multiply<DotBytes>(
      {reinterpret_cast<const Word*>(q), steps, count, panel, 0, 2, steps, reinterpret_cast<Word*>(sums), kPanel});
  return panel + steps * kPanel;
}

// A block's memory besides its rows, for one panel at a time.
struct PanelScratch {
  int32_t* sums;        // (rows, 32)
  float* outlier_sums;  // (rows, 32)
  Word* outlier_rows;   // (rows, outlier_words): the rows' outliers as pairs, a zero after an odd number
  Word* outlier_panel;  // (outlier_words, 32): the panel's
  int64_t outlier_words;

  PanelScratch(Scratch& scratch, const Rows& rows, int64_t count, int64_t outliers)
      : outlier_words((outliers + 1) / 2) {
    sums = scratch.take<int32_t>(count * kPanel);
    outlier_sums = scratch.take<float>(count * kPanel);
    outlier_rows = scratch.take<Word>(count * outlier_words);
    outlier_panel = scratch.take<Word>(outlier_words * kPanel);
    for (int64_t r = 0; outliers && r < count; ++r) {
      outlier_rows[(r + 1) * outlier_words - 1] = 0;
      __builtin_memcpy(outlier_rows + r * outlier_words, rows.outliers + r * outliers,
                       static_cast<size_t>(outliers) * sizeof(Bf16));
    }
  }
};

// Calls then(row, output, y, z) with each 32 outputs of the linear map for each row: y the first half, z the second.
template <class Then>
OCTAVO_INLINE void apply_linear(Multiplier& multiplier, Scratch& scratch, const Rows& rows, int64_t count,
                                const Linear& linear, Then then) {
  const PanelScratch panel(scratch, rows, count, linear.input.outliers);
  const int64_t words = panel.outlier_words;
  for (int64_t output = 0; output < linear.outputs; output += kPanel) {
    const Word* share = multiply_panel(multiplier, rows.q, count, linear.inputs, linear.packed, output, panel.sums);
    pack_outliers(linear, output, panel.outlier_panel);
    multiplier.multiply<DotBf16>({panel.outlier_rows, words, count, panel.outlier_panel, 0, 2, words,
                                  reinterpret_cast<Word*>(panel.outlier_sums), kPanel});
    const auto y_of = [&](int64_t r, int64_t half, __m512i excess, __m512 scale, __m512 bias) {
      const __m512i sum = _mm512_loadu_si512(panel.sums + r * kPanel + half);
      const __m512 scales = _mm512_mul_ps(scale, _mm512_set1_ps(rows.scale[r]));
      const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, excess)), scales, bias);
      return _mm512_add_ps(y, _mm512_loadu_ps(panel.outlier_sums + r * kPanel + half));
    };
    const __m512i left_share = _mm512_loadu_si512(share), right_share = _mm512_loadu_si512(share + kLanes);
    const float* scale = linear.scale + output;
    const float* bias = linear.bias + output;
    const __m512 left_scale = _mm512_loadu_ps(scale), right_scale = _mm512_loadu_ps(scale + kLanes);
    const __m512 left_bias = _mm512_loadu_ps(bias), right_bias = _mm512_loadu_ps(bias + kLanes);
    for (int64_t r = 0; r < count; ++r)
      then(r, output, y_of(r, 0, left_share, left_scale, left_bias),
           y_of(r, kLanes, right_share, right_scale, right_bias));
  }
}

}  // namespace octavo::OCTAVO_ISA
