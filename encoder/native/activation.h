// The feed-forward block's activations.
//
// GELU is x Φ(x), and Φ(x) - 1/2 is odd: x P(x²) with P of degree 8, fitted on |x| <= 4.25 so that x Φ(x) is off by
// 1.6e-5 at most (2e-5 for the tanh form); beyond, Φ is held at its ends, which costs 8e-6 |x|. The result goes to 8
// bits, whose steps are a hundred times that. Thirteen instructions for sixteen numbers; with erf by an exponential
// they are 20.
#pragma once

#include "simd.h"

namespace octavo::OCTAVO_ISA {

// Coefficients of P, from the constant on; minimax by reweighted least squares.
struct Gelu {
  static constexpr float kLimit = 4.25f;
  static constexpr float kTerms[9] = {0.39881922f,     -0.0661902824f,   0.00971877968f,
                                      -0.00107907825f, 8.84891865e-05f,  -5.14751819e-06f,
                                      1.98616133e-07f, -4.51531075e-09f, 4.54708148e-11f};
};

struct GeluTanh {  // x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))), as GPT-2 has it
  static constexpr float kLimit = 4.25f;
  static constexpr float kTerms[9] = {0.398787854f,    -0.0664531756f,   0.00990495627f,
                                      -0.00112869146f, 9.54799086e-05f,  -5.72299213e-06f,
                                      2.26518173e-07f, -5.25541194e-09f, 5.37668023e-11f};
};

template <class Form>
OCTAVO_INLINE __m512 gelu(__m512 x) {
  const __m512 limit = _mm512_set1_ps(Form::kLimit);
  const __m512 held = _mm512_max_ps(_mm512_min_ps(x, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
  const __m512 square = _mm512_mul_ps(held, held);
  __m512 p = _mm512_set1_ps(Form::kTerms[8]);
  for (int i = 7; i >= 0; --i) p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(Form::kTerms[i]));
  return _mm512_mul_ps(x, _mm512_fmadd_ps(held, p, _mm512_set1_ps(0.5f)));
}

template <Activation A>
OCTAVO_INLINE __m512 activate(__m512 x) {
  if constexpr (A == Activation::kGelu) return gelu<Gelu>(x);
  if constexpr (A == Activation::kGeluTanh) return gelu<GeluTanh>(x);
  return _mm512_max_ps(x, _mm512_setzero_ps());
}

}  // namespace octavo::OCTAVO_ISA
