// NEON with dot products (Armv8.2): four registers for each vector.
#pragma once

#include <arm_neon.h>

#include "exponent.h"

namespace octavo::OCTAVO_FORM {

struct Floats {
  float32x4_t v[4];
};
struct Words {
  int32x4_t v[4];
};
using Mask = Words;  // all bits of a lane, or none

template <class Result, class Quarter>
OCTAVO_INLINE Result each(Quarter quarter) {
  return {{quarter(0), quarter(1), quarter(2), quarter(3)}};
}

OCTAVO_INLINE Floats splat(float x) {
  return each<Floats>([&](int) { return vdupq_n_f32(x); });
}
OCTAVO_INLINE Words splat(int32_t x) {
  return each<Words>([&](int) { return vdupq_n_s32(x); });
}
OCTAVO_INLINE Floats load(const float* p) {
  return each<Floats>([&](int i) { return vld1q_f32(p + 4 * i); });
}
OCTAVO_INLINE Words load(const int32_t* p) {
  return each<Words>([&](int i) { return vld1q_s32(p + 4 * i); });
}
OCTAVO_INLINE void store(float* p, Floats x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
OCTAVO_INLINE void store(int32_t* p, Words x) {
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, x.v[i]);
}

OCTAVO_INLINE Floats operator+(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Floats operator-(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Floats operator*(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Floats operator/(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
OCTAVO_INLINE Floats fnma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); });
}
OCTAVO_INLINE Floats fma_bf16(Floats a, Floats b, Floats c) { return fma(a, b, c); }
// The instructions for minimum and maximum keep a NaN on either side.
OCTAVO_INLINE float32x4_t lesser(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
OCTAVO_INLINE float32x4_t greater(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
OCTAVO_INLINE Floats min(Floats a, Floats b) {
  return each<Floats>([&](int i) { return lesser(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Floats max(Floats a, Floats b) {
  return each<Floats>([&](int i) { return greater(a.v[i], b.v[i]); });
}

OCTAVO_INLINE Words operator+(Words a, Words b) {
  return each<Words>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Words operator-(Words a, Words b) {
  return each<Words>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Words operator&(Words a, Words b) {
  return each<Words>([&](int i) { return vandq_s32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Words operator|(Words a, Words b) {
  return each<Words>([&](int i) { return vorrq_s32(a.v[i], b.v[i]); });
}
OCTAVO_INLINE Words max(Words a, Words b) {
  return each<Words>([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); });
}
template <int N>
OCTAVO_INLINE Words shift_left(Words a) {
  return each<Words>([&](int i) { return vshlq_n_s32(a.v[i], N); });
}
template <int N>
OCTAVO_INLINE Words shift_right(Words a) {
  return each<Words>([&](int i) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v[i]), N)); });
}

OCTAVO_INLINE Words bits(Floats x) {
  return each<Words>([&](int i) { return vreinterpretq_s32_f32(x.v[i]); });
}
OCTAVO_INLINE Floats floats(Words x) {
  return each<Floats>([&](int i) { return vreinterpretq_f32_s32(x.v[i]); });
}
OCTAVO_INLINE Floats to_floats(Words x) {
  return each<Floats>([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
OCTAVO_INLINE Words to_words(Floats x) {
  return each<Words>([&](int i) {  // the instruction saturates, and makes NaN 0
    const float32x4_t limit = vdupq_n_f32(0x1p31f);
    const uint32x4_t fits = vandq_u32(vcgeq_f32(x.v[i], vnegq_f32(limit)), vcltq_f32(x.v[i], limit));
    return vbslq_s32(fits, vcvtnq_s32_f32(x.v[i]), vdupq_n_s32(INT32_MIN));
  });
}

OCTAVO_INLINE Mask lanes(int64_t from, int64_t to) {
  const auto clamped = [](int64_t n) { return vdupq_n_s32(static_cast<int32_t>(smaller(larger(n, 0), kLanes))); };
  const int32x4_t first = clamped(from), last = clamped(to);
  const int32_t counted[4] = {0, 1, 2, 3};
  return each<Words>([&](int i) {
    const int32x4_t lane = vaddq_s32(vld1q_s32(counted), vdupq_n_s32(4 * i));
    return vreinterpretq_s32_u32(vandq_u32(vcgeq_s32(lane, first), vcltq_s32(lane, last)));
  });
}
OCTAVO_INLINE Words select(Mask mask, Words a, Words b) {
  return each<Words>([&](int i) { return vbslq_s32(vreinterpretq_u32_s32(mask.v[i]), a.v[i], b.v[i]); });
}

// Folds sixteen lanes by halves.
template <class Combine>
OCTAVO_INLINE float fold(Floats x, Combine combine) {
  const float32x4_t four = combine(combine(x.v[0], x.v[2]), combine(x.v[1], x.v[3]));
  const float32x4_t two = combine(four, vextq_f32(four, four, 2));
  return vgetq_lane_f32(combine(two, vextq_f32(two, two, 1)), 0);
}
OCTAVO_INLINE float reduce_add(Floats x) {
  return fold(x, [](float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); });
}
OCTAVO_INLINE float reduce_max(Floats x) { return fold(x, greater); }
OCTAVO_INLINE float reduce_min(Floats x) { return fold(x, lesser); }
OCTAVO_INLINE int32_t reduce_add(Words x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
}
OCTAVO_INLINE int32_t reduce_max(Words x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[1]), vmaxq_s32(x.v[2], x.v[3])));
}

OCTAVO_INLINE Words load_halves(const Bf16* p) {
  return each<Words>([&](int i) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p + 4 * i))); });
}
OCTAVO_INLINE void store_halves(Bf16* p, Words x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vmovn_u32(vreinterpretq_u32_s32(x.v[i])));
}
OCTAVO_INLINE Words load_signed(const int8_t* p) {
  const int8x16_t x = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
  return {{vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)}};
}
OCTAVO_INLINE int16x8_t halves(int32x4_t a, int32x4_t b) { return vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)); }
OCTAVO_INLINE void store_signed(int8_t* p, Words x) {
  vst1_s8(p, vqmovn_s16(halves(x.v[0], x.v[1])));
  vst1_s8(p + 8, vqmovn_s16(halves(x.v[2], x.v[3])));
}
OCTAVO_INLINE void store_bytes(uint8_t* p, Words x) {
  vst1_u8(p, vqmovun_s16(halves(x.v[0], x.v[1])));
  vst1_u8(p + 8, vqmovun_s16(halves(x.v[2], x.v[3])));
}
OCTAVO_INLINE void store_bytes(uint8_t* p, const Words (&x)[4]) {
  for (int i = 0; i < 4; ++i) store_bytes(p + i * kLanes, x[i]);
}

OCTAVO_INLINE void store_weights(uint8_t* p, const Words (&below)[4], Words& sum) {
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < 4; i += 2) {
      const uint16x8_t x = vcombine_u16(vqmovun_s32(below[j].v[i]), vqmovun_s32(below[j].v[i + 1]));
      const int16x8_t part = vreinterpretq_s16_u16(vshlq_n_u16(vandq_u16(x, vdupq_n_u16(63)), 9));
      int16x8_t power = vdupq_n_s16(kPowerTerms[3]);
      for (int term = 2; term >= 0; --term)
        power = vaddq_s16(vqrdmulhq_s16(power, part), vdupq_n_s16(kPowerTerms[term]));
      const uint16x8_t by = vminq_u16(vshrq_n_u16(x, 6), vdupq_n_u16(16));
      const uint16x8_t fine = vshlq_u16(vreinterpretq_u16_s16(power), vnegq_s16(vreinterpretq_s16_u16(by)));
      sum.v[i] = vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(sum.v[i]), fine));
      vst1_u8(p + j * kLanes + 4 * i, vrshrn_n_u16(fine, 7));
    }
}

OCTAVO_INLINE void transpose(Words (&rows)[16]) {
  int32x4_t t[4][4][4];  // of four rows and four words each, transposed
  for (int r = 0; r < 4; ++r)
    for (int c = 0; c < 4; ++c) {
      const auto row = [&](int i) { return vreinterpretq_s64_s32(rows[4 * r + i].v[c]); };
      const auto narrow = [](int64x2_t x) { return vreinterpretq_s32_s64(x); };
      const int32x4_t a = narrow(vzip1q_s64(row(0), row(2))), b = narrow(vzip2q_s64(row(0), row(2)));
      const int32x4_t d = narrow(vzip1q_s64(row(1), row(3))), e = narrow(vzip2q_s64(row(1), row(3)));
      t[r][c][0] = vtrn1q_s32(a, d);  // a is 0 and 1 of rows 0 and 2, d of rows 1 and 3
      t[r][c][1] = vtrn2q_s32(a, d);
      t[r][c][2] = vtrn1q_s32(b, e);
      t[r][c][3] = vtrn2q_s32(b, e);
    }
  for (int c = 0; c < 4; ++c)
    for (int i = 0; i < 4; ++i)
      for (int r = 0; r < 4; ++r) rows[4 * c + i].v[r] = t[r][c][i];
}

// Rows, and vectors of scores, computed at once: so many sums, weights and inputs fit the registers.
constexpr int kScoreRows = 6, kScorePanels = 1;

// --- Products -------------------------------------------------------------------------------------------------------

// Four rows by half a panel: sixteen sums, four corrections, four columns.
constexpr int kRegisterRows = 4;

// Multiplies in vector registers.
class Multiplier {
 public:
  static constexpr int64_t kRows = 12;
  static constexpr bool kTiles = false;

  void multiply(const Product& p, Begin begin) {
    for (int64_t row = 0; row < p.rows; row += kRegisterRows)
      with_rows<kRegisterRows>(smaller(p.rows - row, kRegisterRows), [&]<int Rows>() {
        for (int64_t v = 0; v < p.vectors; ++v) tile<Rows>(p, begin, row, v);
      });
  }

 private:
  // Both factors of the instruction are signed: 128 is subtracted from A, and 128 times the sum of B is added.
  template <int Rows>
  static OCTAVO_INLINE void tile(const Product& p, Begin begin, int64_t row, int64_t vector) {
    const Word* panel = p.panels + vector / 2 * p.panel_stride + vector % 2 * kLanes;
    const Word* a = p.a + row * p.a_stride;
    const int8x16_t ones = vdupq_n_s8(1);
    int32x4_t sums[Rows][4], totals[4];
    for (int v = 0; v < 4; ++v) {
      totals[v] = vdupq_n_s32(0);
      for (int r = 0; r < Rows; ++r) sums[r][v] = vdupq_n_s32(0);
    }
    for (int64_t k = 0; k < p.steps; ++k) {
      int8x16_t words[Rows];
      for (int r = 0; r < Rows; ++r) words[r] = vreinterpretq_s8_u32(vdupq_n_u32(a[r * p.a_stride + k] ^ 0x80808080u));
      for (int v = 0; v < 4; ++v) {
        const int8x16_t column = vreinterpretq_s8_u32(vld1q_u32(panel + k * kPanel + 4 * v));
        totals[v] = vdotq_s32(totals[v], ones, column);
        for (int r = 0; r < Rows; ++r) sums[r][v] = vdotq_s32(sums[r][v], words[r], column);
      }
    }
    for (int v = 0; v < 4; ++v) {
      int32x4_t start = vshlq_n_s32(totals[v], 7);
      if (begin == Begin::kPanelRow)
        start = vaddq_s32(start, vreinterpretq_s32_u32(vld1q_u32(panel + p.steps * kPanel + 4 * v)));
      for (int r = 0; r < Rows; ++r)
        vst1q_u32(p.c + (row + r) * p.c_stride + vector * kLanes + 4 * v,
                  vreinterpretq_u32_s32(vaddq_s32(sums[r][v], start)));
    }
  }
};

}  // namespace octavo::OCTAVO_FORM
