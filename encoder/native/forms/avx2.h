// AVX2 with FMA: two registers for each vector.
//
// vpmaddubsw would saturate: two products of a byte with a signed byte do not fit 16 bits. So both are widened to
// 16 bits, where vpmaddwd is exact. With OCTAVO_AVX_VNNI, vpdpbusd multiplies the bytes themselves.
#pragma once

#include <immintrin.h>

#include "exponent.h"

namespace octavo::OCTAVO_FORM {

struct Floats {
  __m256 lo, hi;
};
struct Words {
  __m256i lo, hi;
};
using Mask = Words;  // all bits of a lane, or none

OCTAVO_INLINE Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
OCTAVO_INLINE Words splat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
OCTAVO_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
OCTAVO_INLINE Words load(const int32_t* p) {
  const auto* at = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
OCTAVO_INLINE void store(float* p, Floats x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
OCTAVO_INLINE void store(int32_t* p, Words x) {
  auto* at = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(at, x.lo);
  _mm256_storeu_si256(at + 1, x.hi);
}

OCTAVO_INLINE Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
OCTAVO_INLINE Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
OCTAVO_INLINE Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
OCTAVO_INLINE Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
OCTAVO_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
OCTAVO_INLINE Floats fnma(Floats a, Floats b, Floats c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
OCTAVO_INLINE Floats fma_bf16(Floats a, Floats b, Floats c) { return fma(a, b, c); }
OCTAVO_INLINE Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
OCTAVO_INLINE Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }

OCTAVO_INLINE Words operator+(Words a, Words b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
OCTAVO_INLINE Words operator-(Words a, Words b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
OCTAVO_INLINE Words operator&(Words a, Words b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
OCTAVO_INLINE Words operator|(Words a, Words b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
OCTAVO_INLINE Words max(Words a, Words b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
template <int N>
OCTAVO_INLINE Words shift_left(Words a) {
  return {_mm256_slli_epi32(a.lo, N), _mm256_slli_epi32(a.hi, N)};
}
template <int N>
OCTAVO_INLINE Words shift_right(Words a) {
  return {_mm256_srli_epi32(a.lo, N), _mm256_srli_epi32(a.hi, N)};
}

OCTAVO_INLINE Words bits(Floats x) { return {_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)}; }
OCTAVO_INLINE Floats floats(Words x) { return {_mm256_castsi256_ps(x.lo), _mm256_castsi256_ps(x.hi)}; }
OCTAVO_INLINE Floats to_floats(Words x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
OCTAVO_INLINE Words to_words(Floats x) { return {_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)}; }

OCTAVO_INLINE Mask lanes(int64_t from, int64_t to) {
  const auto clamped = [](int64_t n) { return splat(static_cast<int32_t>(smaller(larger(n, 0), kLanes))); };
  const Words first = clamped(from), last = clamped(to);
  const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
  const auto within = [](__m256i lane, __m256i first, __m256i last) {
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(first, lane), _mm256_cmpgt_epi32(last, lane));
  };
  return {within(low, first.lo, last.lo), within(high, first.hi, last.hi)};
}
OCTAVO_INLINE Words select(Mask mask, Words a, Words b) {
  return {_mm256_blendv_epi8(b.lo, a.lo, mask.lo), _mm256_blendv_epi8(b.hi, a.hi, mask.hi)};
}

// Folds the eight lanes of both halves' combination, by halves.
template <class Combine>
OCTAVO_INLINE float fold(__m256 eight, Combine combine) {
  const __m128 four = combine(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = combine(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(combine(two, _mm_shuffle_ps(two, two, 1)));
}
template <class Combine>
OCTAVO_INLINE int32_t fold(__m256i eight, Combine combine) {
  const __m128i four = combine(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = combine(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(combine(two, _mm_shuffle_epi32(two, 0xb1)));
}
OCTAVO_INLINE float reduce_add(Floats x) {
  return fold(_mm256_add_ps(x.lo, x.hi), [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}
OCTAVO_INLINE float reduce_max(Floats x) {
  return fold(_mm256_max_ps(x.lo, x.hi), [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
}
OCTAVO_INLINE float reduce_min(Floats x) {
  return fold(_mm256_min_ps(x.lo, x.hi), [](__m128 a, __m128 b) { return _mm_min_ps(a, b); });
}
OCTAVO_INLINE int32_t reduce_add(Words x) {
  return fold(_mm256_add_epi32(x.lo, x.hi), [](__m128i a, __m128i b) { return _mm_add_epi32(a, b); });
}
OCTAVO_INLINE int32_t reduce_max(Words x) {
  return fold(_mm256_max_epi32(x.lo, x.hi), [](__m128i a, __m128i b) { return _mm_max_epi32(a, b); });
}

OCTAVO_INLINE Words load_halves(const Bf16* p) {
  const auto* at = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(at)), _mm256_cvtepu16_epi32(_mm_loadu_si128(at + 1))};
}
// Packs sixteen numbers to 16 bits, in order.
OCTAVO_INLINE __m256i packed_unsigned(Words x) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(x.lo, x.hi), 0xd8);
}
OCTAVO_INLINE __m256i packed_signed(Words x) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.lo, x.hi), 0xd8);
}
OCTAVO_INLINE void store_halves(Bf16* p, Words x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed_unsigned(x));
}

OCTAVO_INLINE Words load_signed(const int8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
}
OCTAVO_INLINE void store_signed(int8_t* p, Words x) {
  const __m256i halves = packed_signed(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}
OCTAVO_INLINE void store_bytes(uint8_t* p, Words x) {
  const __m256i halves = packed_signed(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}
OCTAVO_INLINE void store_bytes(uint8_t* p, const Words (&x)[4]) {
  for (int i = 0; i < 4; ++i) store_bytes(p + i * kLanes, x[i]);
}

OCTAVO_INLINE void store_weights(uint8_t* p, const Words (&below)[4], Words& sum) {
  const __m256i c0 = _mm256_set1_epi16(kPowerTerms[0]), c1 = _mm256_set1_epi16(kPowerTerms[1]);
  const __m256i c2 = _mm256_set1_epi16(kPowerTerms[2]), c3 = _mm256_set1_epi16(kPowerTerms[3]);
  const __m256i zero = _mm256_setzero_si256();
  const auto fine = [&](Words x32) {  // lanes of four words stay tangled until the bytes are packed
    const __m256i x = _mm256_packus_epi32(x32.lo, x32.hi);
    const __m256i part = _mm256_slli_epi16(_mm256_and_si256(x, _mm256_set1_epi16(63)), 9);
    __m256i power = _mm256_add_epi16(_mm256_mulhrs_epi16(c3, part), c2);
    power = _mm256_add_epi16(_mm256_mulhrs_epi16(power, part), c1);
    power = _mm256_add_epi16(_mm256_mulhrs_epi16(power, part), c0);
    const __m256i by = _mm256_srli_epi16(x, 6);  // AVX2 shifts each lane by its own count only in 32 bits
    return _mm256_packus_epi32(
        _mm256_srlv_epi32(_mm256_unpacklo_epi16(power, zero), _mm256_unpacklo_epi16(by, zero)),
        _mm256_srlv_epi32(_mm256_unpackhi_epi16(power, zero), _mm256_unpackhi_epi16(by, zero)));
  };
  const __m256i ones = _mm256_set1_epi16(1), round = _mm256_set1_epi16(256);
  for (int i = 0; i < 4; i += 2) {
    const __m256i left = fine(below[i]), right = fine(below[i + 1]);
    sum.lo = _mm256_add_epi32(sum.lo, _mm256_madd_epi16(left, ones));
    sum.hi = _mm256_add_epi32(sum.hi, _mm256_madd_epi16(right, ones));
    const __m256i bytes = _mm256_packus_epi16(_mm256_mulhrs_epi16(left, round), _mm256_mulhrs_epi16(right, round));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i * kLanes), _mm256_permutevar8x32_epi32(bytes, order));
  }
}

OCTAVO_INLINE void transpose(__m256i (&rows)[8]) {
  __m256i t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    rows[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2x128_si256(rows[i], rows[i + 4], 0x20);
    t[i + 4] = _mm256_permute2x128_si256(rows[i], rows[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) rows[i] = t[i];
}

OCTAVO_INLINE void transpose(Words (&rows)[16]) {
  __m256i quarter[2][2][8];  // of upper or lower rows, left or right words
  for (int i = 0; i < 8; ++i) {
    quarter[0][0][i] = rows[i].lo;
    quarter[0][1][i] = rows[i].hi;
    quarter[1][0][i] = rows[i + 8].lo;
    quarter[1][1][i] = rows[i + 8].hi;
  }
  for (auto& half : quarter)
    for (auto& each : half) transpose(each);
  for (int i = 0; i < 8; ++i) {
    rows[i] = {quarter[0][0][i], quarter[1][0][i]};
    rows[i + 8] = {quarter[0][1][i], quarter[1][1][i]};
  }
}

// Rows, and vectors of scores, computed at once: so many sums, weights and inputs fit the registers.
constexpr int kScoreRows = 6, kScorePanels = 1;

// --- Products -------------------------------------------------------------------------------------------------------

#ifdef OCTAVO_AVX_VNNI

// Three rows by four vectors, all of a panel, keep twelve sums in sixteen registers.
constexpr int kRegisterRows = 3;

// The avx_vnni_evex form has the same instruction in the encoding of AVX-512 VNNI, so that tests can run it there.
#ifdef OCTAVO_EVEX
#define OCTAVO_ENCODING "%{evex%} "
#else
#define OCTAVO_ENCODING "%{vex%} "
#endif

OCTAVO_INLINE __m256i dot(__m256i sum, __m256i a, __m256i b) {
  asm(OCTAVO_ENCODING "vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}

template <int Rows>
OCTAVO_INLINE void register_tile(const Product& p, Begin begin, const Word* panel, Word* c, int64_t columns) {
  __m256i sums[Rows][4];
  const auto* start = reinterpret_cast<const __m256i*>(panel + p.steps * kPanel);
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < 4; ++v)
      sums[r][v] = begin == Begin::kZero ? _mm256_setzero_si256() : _mm256_loadu_si256(start + v);
  for (int64_t k = 0; k < p.steps; ++k) {
    __m256i words[Rows];
    for (int r = 0; r < Rows; ++r) words[r] = _mm256_set1_epi32(static_cast<int>(p.a[r * p.a_stride + k]));
    for (int v = 0; v < 4; ++v) {
      const __m256i column = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + k * kPanel) + v);
      for (int r = 0; r < Rows; ++r) sums[r][v] = dot(sums[r][v], words[r], column);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < columns / 8; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + r * p.c_stride) + v, sums[r][v]);
}

// Multiplies in vector registers.
class Multiplier {
 public:
  static constexpr int64_t kRows = 12;
  static constexpr bool kTiles = false;

  void multiply(Product p, Begin begin) {
    while (p.rows > 0) {
      const int64_t rows = smaller(p.rows, kRegisterRows);
      for (int64_t v = 0; v < p.vectors; v += 2) {
        const Word* panel = p.panels + v / 2 * p.panel_stride;
        const int64_t columns = smaller(p.vectors - v, 2) * kLanes;
        with_rows<kRegisterRows>(
            rows, [&]<int Rows>() { register_tile<Rows>(p, begin, panel, p.c + v * kLanes, columns); });
      }
      p.a += rows * p.a_stride;
      p.c += rows * p.c_stride;
      p.rows -= rows;
    }
  }
};

#else

// Four rows by two vectors of four columns in 16 bits: eight sums, two widened loads and four broadcasts for eight
// products.
constexpr int kRegisterRows = 4;
constexpr int64_t kTileColumns = 8;

// Adds the products of two pairs of 16-bit numbers in each lane. The sum is in inline assembly, because GCC 12 copies
// it around the intrinsic.
OCTAVO_INLINE void dot(__m256i& sum, __m256i a, __m256i b) {
  asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(a, b)));
}

// Multiplies in vector registers. Rows of A are widened once for each product.
class Multiplier {
 public:
  static constexpr int64_t kRows = 12;
  static constexpr bool kTiles = false;

  void multiply(const Product& p, Begin begin) {
    const uint64_t* wide = widen(p);
    for (int64_t row = 0; row < p.rows; row += kRegisterRows)
      with_rows<kRegisterRows>(smaller(p.rows - row, kRegisterRows), [&]<int Rows>() {
        for (int64_t column = 0; column < p.vectors * kLanes; column += kTileColumns)
          tile<Rows>(p, begin, wide + row * p.steps, column, p.c + row * p.c_stride + column);
      });
  }

 private:
  // Widens each byte of A to 16 bits: (rows, steps) of four.
  const uint64_t* widen(const Product& p) {
    uint64_t* wide = wide_.reserve(p.rows * p.steps);
    for (int64_t r = 0; r < p.rows; ++r) {
      const Word* from = p.a + r * p.a_stride;
      uint64_t* to = wide + r * p.steps;
      int64_t k = 0;
      for (; k + 4 <= p.steps; k += 4)
        _mm256_storeu_si256(
            reinterpret_cast<__m256i*>(to + k),
            _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k))));
      for (; k < p.steps; ++k)
        to[k] = static_cast<uint64_t>(
            _mm_cvtsi128_si64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(static_cast<int>(from[k])))));
    }
    return wide;
  }

  template <int Rows>
  static OCTAVO_INLINE void tile(const Product& p, Begin begin, const uint64_t* a, int64_t column, Word* c) {
    const Word* panel = p.panels + column / kPanel * p.panel_stride + column % kPanel;
    __m256i left[Rows], right[Rows];
    for (int r = 0; r < Rows; ++r) left[r] = right[r] = _mm256_setzero_si256();
    for (int64_t k = 0; k < p.steps; ++k) {
      const auto* words = reinterpret_cast<const __m128i*>(panel + k * kPanel);
      const __m256i first = _mm256_cvtepi8_epi16(_mm_loadu_si128(words));
      const __m256i second = _mm256_cvtepi8_epi16(_mm_loadu_si128(words + 1));
      for (int r = 0; r < Rows; ++r) {
        const __m256i word = _mm256_set1_epi64x(static_cast<long long>(a[r * p.steps + k]));
        dot(left[r], word, first);
        dot(right[r], word, second);
      }
    }
    const __m256i start = begin == Begin::kZero
                              ? _mm256_setzero_si256()
                              : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + p.steps * kPanel));
    for (int r = 0; r < Rows; ++r) {  // the two halves of each column's sum
      const __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(left[r], right[r]), 0xd8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + r * p.c_stride), _mm256_add_epi32(sums, start));
    }
  }

  Buffer<uint64_t> wide_;
};

#endif

}  // namespace octavo::OCTAVO_FORM
