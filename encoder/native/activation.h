// The feed-forward block's activations.
//
// GELU is x Φ(x), and Φ(x) - 1/2 is odd: x P(x²) with P of degree 6, fitted on |x| <= 3.9 so that the error of
// x Φ(x) is at most 1.5e-4 (1.7e-4 for the tanh form). Beyond that Φ is clamped, with an error of 1.3e-5 |x|. The result is
// quantised to 8 bits with steps a hundred times that. Eleven instructions for a vector; erf by an exponential takes
// 20.
#pragma once

#include "vectors.h"

namespace octavo::OCTAVO_FORM {

// Coefficients of P, constant first; minimax by reweighted least squares.
struct Gelu {
  static constexpr float kLimit = 3.9f;
  static constexpr float kTerms[7] = {0.398085594f,     -0.0648694709f,  0.00891378336f,  -0.000844511262f,
                                      5.12372026e-05f, -1.77049162e-06f, 2.62714153e-08f};
};

struct GeluTanh {  // x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))), as in GPT-2
  static constexpr float kLimit = 3.9f;
  static constexpr float kTerms[7] = {0.39796558f,      -0.06496647f,    0.00899517443f,  -0.000862516987f,
                                      5.30244288e-05f, -1.85466649e-06f, 2.78058678e-08f};
};

template <class Form>
OCTAVO_INLINE Floats gelu(Floats x) {
  const Floats held = max(min(x, splat(Form::kLimit)), splat(-Form::kLimit));
  const Floats square = held * held;
  Floats p = splat(Form::kTerms[6]);
  for (int i = 5; i >= 0; --i) p = fma(p, square, splat(Form::kTerms[i]));
  return x * fma(held, p, splat(0.5f));
}

template <Activation A>
OCTAVO_INLINE Floats activate(Floats x) {
  if constexpr (A == Activation::kGelu) return gelu<Gelu>(x);
  if constexpr (A == Activation::kGeluTanh) return gelu<GeluTanh>(x);
  return max(x, splat(0.0f));
}

}  // namespace octavo::OCTAVO_FORM
