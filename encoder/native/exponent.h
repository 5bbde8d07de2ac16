// Powers of two: softmax's exponentials in bytes, sixty-four at a time, and in float for the few that need it.
//
// A weight is 255 · 2^-x, with x in 64ths: its lower six bits select one of 64 powers between 1 and 1/2 from a table in
// two registers, its upper bits are a right shift. A weight is first computed in 16 bits, seven more than a byte, with
// an error of at most 0.55 % (half a 64th). These are summed, then rounded to bytes. Twenty-three instructions for 64
// weights and their sum.
#pragma once

#include "simd.h"

namespace octavo::OCTAVO_ISA {

constexpr float kStepsPerHalf = 64.0f;
constexpr float kLargestWeight = 255.0f;
constexpr float kFineWeight = 128.0f;  // units of the 16-bit weights per unit of a byte

// 255 · 128 · 2^(-i / 64)
alignas(64) constexpr uint16_t kPowers[64] = {
    32640, 32288, 31941, 31597, 31256, 30919, 30586, 30257, 29931, 29609, 29290, 28974, 28662, 28353, 28048, 27746,
    27447, 27151, 26859, 26569, 26283, 26000, 25720, 25443, 25169, 24898, 24630, 24364, 24102, 23842, 23585, 23331,
    23080, 22831, 22585, 22342, 22101, 21863, 21628, 21395, 21164, 20936, 20711, 20488, 20267, 20049, 19833, 19619,
    19408, 19199, 18992, 18787, 18585, 18385, 18187, 17991, 17797, 17605, 17416, 17228, 17043, 16859, 16677, 16498};

class ByteWeights {
 public:
  ByteWeights() : low_(_mm512_load_si512(kPowers)), high_(_mm512_load_si512(kPowers + 32)) {}

  // Computes sixty-four weights, in order, from their distance below the largest in 64ths of a power of two; negative
  // distances count as 0. Adds the weights, in 16 bits, to `sum`.
  OCTAVO_INLINE __m512i from(const __m512i (&x)[4], __m512i& sum) const {
    const __m512i left = fine(_mm512_packus_epi32(x[0], x[1])), right = fine(_mm512_packus_epi32(x[2], x[3]));
    const __m512i ones = _mm512_set1_epi16(1), round = _mm512_set1_epi16(256);
    sum = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum, left, ones), right, ones);
    return untangle(_mm512_packus_epi16(_mm512_mulhrs_epi16(left, round), _mm512_mulhrs_epi16(right, round)));
  }

 private:
  OCTAVO_INLINE __m512i fine(__m512i x) const {
    return _mm512_srlv_epi16(_mm512_permutex2var_epi16(low_, x, high_), _mm512_srli_epi16(x, 6));
  }

  __m512i low_, high_;
};

// 2^x with an error of at most 2e-7, by the Taylor series around whole numbers. x is clamped at -200, where the result
// is 0, because its integer part would not be exact below.
OCTAVO_INLINE __m512 power_of_two(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
  constexpr float kTerms[7] = {1.0f,           0.693147181f,   0.240226507f,  0.0555041087f,
                               0.00961812911f, 0.00133335581f, 0.000154035304f};
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(kTerms[6]);
  for (int i = 5; i >= 0; --i) p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(kTerms[i]));
  return _mm512_scalef_ps(p, whole);
}

}  // namespace octavo::OCTAVO_ISA
