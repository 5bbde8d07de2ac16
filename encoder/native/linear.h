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
inline void pack_outliers(const Linear& linear, int64_t output, int64_t vectors, Word* panel) {
  const auto load = [&](int64_t outlier, int64_t column) {
    if (outlier >= linear.input.outliers) return _mm512_setzero_si512();
    const Bf16* p = linear.outlier_weight + outlier * linear.outputs + column;
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  for (int64_t o = 0; o < linear.input.outliers; o += 2)
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t column = output + v * kLanes;
      const __m512i high = _mm512_slli_epi32(load(o + 1, column), 16);
      _mm512_storeu_si512(panel + o / 2 * kPanel + v * kLanes, _mm512_or_si512(load(o, column), high));
    }
}

// A block's memory besides its rows: sums of one panel.
struct PanelSums {
  int32_t* integers;  // (rows, 32)
  float* outliers;    // (rows, 32)
  Word* outlier_panel;
  Word* outlier_rows;  // (rows, ceil(outliers / 2)): the rows' outliers, of an even number
  int64_t outlier_words;

  PanelSums(Scratch& scratch, int64_t rows, int64_t outliers) : outlier_words((outliers + 1) / 2) {
    integers = scratch.take<int32_t>(rows * kPanel);
    this->outliers = scratch.take<float>(rows * kPanel);
    outlier_panel = scratch.take<Word>(outlier_words * kPanel);
    outlier_rows = scratch.take<Word>(rows * outlier_words);
  }
};

// The exact sums of one panel: (count, 32), with the zero point's share still in them. Returns that share, 32 of them.
OCTAVO_INLINE const Word* multiply_panel(Multiplier& multiplier, const uint8_t* q, int64_t count, int64_t inputs,
                                         const int8_t* packed, int64_t output, int64_t vectors, int32_t* sums) {
  const int64_t steps = inputs / 4;
  const Word* panel = reinterpret_cast<const Word*>(packed) + output / kPanel * panel_words(inputs);
  multiplier.multiply<DotBytes>({reinterpret_cast<const Word*>(q), steps, count, panel, 0, vectors, steps,
                                 reinterpret_cast<Word*>(sums), kPanel});
  return panel + steps * kPanel;
}

// Calls then(row, output, y) with each sixteen outputs of the linear map for each row.
template <class Then>
OCTAVO_INLINE void apply_linear(Multiplier& multiplier, const Rows& rows, int64_t count, const Linear& linear,
                                const PanelSums& sums, Then then) {
  const int64_t outliers = linear.input.outliers;
  for (int64_t r = 0; outliers && r < count; ++r) {
    sums.outlier_rows[(r + 1) * sums.outlier_words - 1] = 0;
    __builtin_memcpy(sums.outlier_rows + r * sums.outlier_words, rows.outliers + r * outliers,
                     static_cast<size_t>(outliers) * sizeof(Bf16));
  }
  for (int64_t output = 0; output < linear.outputs; output += kPanel) {
    const int64_t vectors = smaller(linear.outputs - output, kPanel) / kLanes;
    const Word* share = multiply_panel(multiplier, rows.q, count, linear.inputs, linear.packed, output, vectors,
                                       sums.integers);
    if (outliers) {
      pack_outliers(linear, output, vectors, sums.outlier_panel);
      multiplier.multiply<DotBf16>({sums.outlier_rows, sums.outlier_words, count, sums.outlier_panel, 0, vectors,
                                    sums.outlier_words, reinterpret_cast<Word*>(sums.outliers), kPanel});
    }
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t column = output + v * kLanes;
      const __m512i excess = _mm512_loadu_si512(share + v * kLanes);
      const __m512 scale = _mm512_loadu_ps(linear.scale + column);
      const __m512 bias = _mm512_loadu_ps(linear.bias + column);
      for (int64_t r = 0; r < count; ++r) {
        const __m512i sum = _mm512_loadu_si512(sums.integers + r * kPanel + v * kLanes);
        const __m512 scales = _mm512_mul_ps(scale, _mm512_set1_ps(rows.scale[r]));
        __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, excess)), scales, bias);
        if (outliers) y = _mm512_add_ps(y, _mm512_loadu_ps(sums.outliers + r * kPanel + v * kLanes));
        then(r, column, y);
      }
    }
  }
}

}  // namespace octavo::OCTAVO_ISA
