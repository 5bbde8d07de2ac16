// Powers of two in 16 bits, for softmax's weights.
//
// A weight is 255 · 2^-x, with x in 64ths, first computed in 16 bits, seven more than a byte, with an error of at most
// 0.55 % (half a 64th). store_weights(p, below, sum) takes sixty-four x (below 0 they count as 0, above 65,535 as
// that), adds the 16-bit weights to `sum`, in any order, and stores them rounded to bytes, in order.
//
// The lower six bits of x select one of 64 powers between 1 and 1/2, its upper bits are a right shift. The powers are
// those of a cubic polynomial in 16-bit arithmetic (within 1.1e-4 of the true ones), so that a form may look them up or
// compute them, with the same bits.
#pragma once

#include "product.h"

namespace octavo::OCTAVO_FORM {

constexpr float kStepsPerHalf = 64.0f;
constexpr float kLargestWeight = 255.0f;
constexpr float kFineWeight = 128.0f;  // units of the 16-bit weights per unit of a byte

// Coefficients of 32640 · 2^-t, constant first; t has 15 fractional bits, as do products, which are rounded.
constexpr int16_t kPowerTerms[4] = {32640, -22574, 7549, -1297};

struct Powers {
  alignas(64) uint16_t at[64] = {};

  constexpr Powers() {
    for (int32_t i = 0; i < 64; ++i) {
      int32_t power = kPowerTerms[3];
      for (int term = 2; term >= 0; --term) power = ((power * (i << 9) + 0x4000) >> 15) + kPowerTerms[term];
      at[i] = static_cast<uint16_t>(power);
    }
  }
};
constexpr Powers kPowers;

}  // namespace octavo::OCTAVO_FORM
