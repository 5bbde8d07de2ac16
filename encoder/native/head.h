// One head of one segment: quantises its queries, keys and values to 8 bits, in the order that products read.
//
// A segment's first and last tokens, its ends, are the models' attention sinks. They stay in float: their keys can be
// far larger than all others, and next to their weights other weights would vanish in 8 bits. The tokens between them
// are `inner` tokens, counted from the segment's second token.
#pragma once

#include "exponent.h"
#include "product.h"
#include "simd.h"

namespace octavo::OCTAVO_ISA {

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kGroup = 64;  // inner tokens whose weights are computed at once
constexpr int64_t kEnds = 2;
constexpr int32_t kQueryZero = 128;

struct Head {
  const Bf16* q;
  const Bf16* k;
  const Bf16* v;
  Bf16* out;
  int64_t stride;  // from token to token in q, k and v
  int64_t out_stride;
  int64_t tokens;
  int64_t size;
  int64_t window;
  float exponent_scale;  // converts a score to a power of two

  Word* queries;       // (tokens, query_words): bytes around kQueryZero
  Word* key_panels;    // column j of panel p is inner key 32 p + j; a step is four numbers; starts sums with a row
  float score_step;    // converts an integer score to 64ths of a power of two
  Word* end_panel;     // bfloat16: the first token's key, the last one's, and the inner keys' mean in two parts
  Word* value_panels;  // columns are the head's numbers; a step is four inner tokens
  float* value_scale;  // (size)
  float* value_mean;   // (size)
  float* end_values[kEnds];  // (size): less the mean

  int64_t inner() const { return larger(tokens - kEnds, 0); }
  // Tiles multiply sixteen words at once; words beyond a head's size are zero.
  int64_t query_words() const { return Multiplier::kTiles ? round_up(size / 4, kLanes) : size / 4; }
  int64_t key_panel_words() const { return (query_words() + 1) * kPanel; }
  int64_t value_panel_words() const { return round_up(inner(), kGroup) / 4 * kPanel; }
  int64_t value_columns() const { return round_up(size, kPanel); }
  const Bf16* inner_row(const Bf16* rows, int64_t token) const { return rows + (token + 1) * stride; }
};

inline Head head_of(const AttentionCall& call, int64_t segment, int64_t index) {
  const int64_t begin = call.offsets[segment];
  const int64_t hidden = call.heads * call.head_size;
  Head head{};
  head.stride = 3 * hidden;
  head.out_stride = hidden;
  head.tokens = call.offsets[segment + 1] - begin;
  head.size = call.head_size;
  head.window = call.window;
  head.exponent_scale = kLog2E / std::sqrt(static_cast<float>(call.head_size));
  head.q = call.qkv + begin * head.stride + index * head.size;
  head.k = head.q + hidden;
  head.v = head.k + hidden;
  head.out = call.out + begin * hidden + index * head.size;
  return head;
}

// The scale for numbers of this size. Below 1e-36, where a reciprocal would overflow, they count as zeros.
OCTAVO_INLINE float signed_scale(float largest) { return largest < 1e-36f ? 0.0f : largest / 127.0f; }
OCTAVO_INLINE __m512 per_step(float scale) { return _mm512_set1_ps(scale == 0.0f ? 0.0f : 1.0f / scale); }

// Computes the mean of each column of the inner rows, and the largest distance from it. One pass suffices: rounding
// preserves order, so the largest or smallest number is the farthest. NaN propagates to both.
inline void centre(const Head& head, const Bf16* rows, float* mean, float* farthest) {
  constexpr int64_t kAtOnce = 4;  // independent sums
  const int64_t count = head.inner();
  for (int64_t column = 0; column < head.size; column += kLanes) {
    __m512 sum[kAtOnce], most[kAtOnce], least[kAtOnce];
    for (int64_t i = 0; i < kAtOnce; ++i) {
      sum[i] = _mm512_setzero_ps();
      most[i] = _mm512_set1_ps(count ? -INFINITY : 0.0f);
      least[i] = _mm512_set1_ps(count ? INFINITY : 0.0f);
    }
    const auto take = [&](int64_t token, int64_t i) {
      const __m512 x = load_bf16(head.inner_row(rows, token) + column);
      sum[i] = _mm512_add_ps(sum[i], x);
      most[i] = _mm512_max_ps(most[i], x);
      least[i] = _mm512_min_ps(least[i], x);
    };
    int64_t token = 0;
    for (; token + kAtOnce <= count; token += kAtOnce)
      for (int64_t i = 0; i < kAtOnce; ++i) take(token + i, i);
    for (; token < count; ++token) take(token, 0);
    for (int64_t i = 1; i < kAtOnce; ++i) {
      sum[0] = _mm512_add_ps(sum[0], sum[i]);
      most[0] = _mm512_max_ps(most[0], most[i]);
      least[0] = _mm512_min_ps(least[0], least[i]);
    }
    const __m512 middle = _mm512_mul_ps(sum[0], _mm512_set1_ps(count ? 1.0f / static_cast<float>(count) : 0.0f));
    _mm512_storeu_ps(mean + column, middle);
    _mm512_storeu_ps(farthest + column, _mm512_max_ps(_mm512_sub_ps(most[0], middle), _mm512_sub_ps(middle, least[0])));
  }
}

// Transposes sixteen rows of words to columns: word w of row r goes to out[w * kPanel + r], for `padded` words per row;
// missing rows and words are zero.
inline void lay_columns(const Word* rows, int64_t count, int64_t words, int64_t padded, Word* out) {
  for (int64_t word = 0; word < padded; word += kLanes) {
    const auto present = static_cast<__mmask16>((1u << smaller(larger(words - word, 0), kLanes)) - 1);
    __m512i square[16];
    for (int64_t r = 0; r < kLanes; ++r)
      square[r] = r < count ? _mm512_maskz_loadu_epi32(present, rows + r * words + word) : _mm512_setzero_si512();
    transpose(square);
    for (int64_t w = 0; w < smaller(padded - word, kLanes); ++w)
      _mm512_storeu_si512(out + (word + w) * kPanel, square[w]);
  }
}

// Subtracts the mean from the keys, which shifts all scores of a query equally and so changes no weight, and scales all
// inner keys equally, so that softmax finds its largest score among integers. Returns their scale.
inline float pack_keys(const Head& head, const float* mean, const float* farthest, int8_t* sixteen_rows) {
  __m512 largest = _mm512_setzero_ps();
  for (int64_t column = 0; column < head.size; column += kLanes)
    largest = _mm512_max_ps(largest, _mm512_loadu_ps(farthest + column));
  const float scale = signed_scale(_mm512_reduce_max_ps(largest));
  const __m512 steps = per_step(scale);
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(kQueryZero));
  for (int64_t first = 0; first < head.inner(); first += kLanes) {
    const int64_t count = smaller(head.inner() - first, kLanes);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t column = 0; column < head.size; column += kLanes) {
        const __m512 x = load_bf16(head.inner_row(head.k, first + r) + column);
        const __m512i k = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(x, _mm512_loadu_ps(mean + column)), steps));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(sixteen_rows + r * head.size + column), _mm512_cvtepi32_epi8(k));
      }
    Word* half_panel = head.key_panels + first / kPanel * head.key_panel_words() + first % kPanel;
    lay_columns(reinterpret_cast<const Word*>(sixteen_rows), count, head.size / 4, head.query_words(), half_panel);
    __m512i excess = _mm512_setzero_si512();
    for (int64_t word = 0; word < head.size / 4; ++word)
      excess = DotBytes::add(excess, zero, _mm512_loadu_si512(half_panel + word * kPanel));
    const __m512i begin = _mm512_sub_epi32(_mm512_setzero_si512(), excess);
    _mm512_storeu_si512(half_panel + head.query_words() * kPanel, begin);
  }
  return scale;
}

// Scales all queries equally. Returns their scale.
inline float pack_queries(const Head& head) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512();
  for (int64_t token = 0; token < head.tokens; ++token)
    for (int64_t column = 0; column < head.size; column += kLanes) {
      const __m512 x = load_bf16(head.q + token * head.stride + column);
      largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
    }
  const float scale = signed_scale(_mm512_reduce_max_ps(_mm512_castsi512_ps(largest)));
  const __m512 steps = per_step(scale), zero = _mm512_set1_ps(kQueryZero);
  for (int64_t token = 0; token < head.tokens; ++token) {
    Word* words = head.queries + token * head.query_words();
    for (int64_t column = 0; column < head.size; column += kLanes) {
      const __m512 x = load_bf16(head.q + token * head.stride + column);
      const __m512i q = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, steps, zero));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(words + column / 4), _mm512_cvtepi32_epi8(q));
    }
    for (int64_t word = head.size / 4; word < head.query_words(); ++word) words[word] = 0;
  }
  return scale;
}

// The ends' keys, and their values minus the mean. A single token is both ends. The part of a score that comes from the
// inner keys' mean is a separate product, with the mean as the sum of two bfloat16.
inline void pack_ends(const Head& head, const float* key_mean, Bf16* four_rows) {
  Bf16* mean_rows = four_rows + kEnds * head.size;
  for (int64_t end = 0; end < kEnds; ++end) {
    const int64_t row = end * (head.tokens - 1) * head.stride;
    for (int64_t column = 0; column < head.size; column += kLanes) {
      store_bf16(four_rows + end * head.size + column, load_bf16(head.k + row + column));
      const __m512 value = load_bf16(head.v + row + column);
      _mm512_storeu_ps(head.end_values[end] + column, _mm512_sub_ps(value, _mm512_loadu_ps(head.value_mean + column)));
    }
  }
  for (int64_t column = 0; column < head.size; column += kLanes) {
    const __m512 mean = _mm512_loadu_ps(key_mean + column);
    store_bf16(mean_rows + column, mean);
    store_bf16(mean_rows + head.size + column, _mm512_sub_ps(mean, load_bf16(mean_rows + column)));
  }
  lay_columns(reinterpret_cast<const Word*>(four_rows), kEnds + 2, head.size / 2, head.size / 2, head.end_panel);
}

// Subtracts the mean from the values, and scales each column by its largest number. The weighted mean of the remainder
// plus that mean is the weighted mean, so weight lost in rounding only loses its share of a difference.
inline void pack_values(const Head& head, const float* farthest) {
  for (int64_t column = 0; column < head.size; column += kLanes) {
    const __m512 mean = _mm512_loadu_ps(head.value_mean + column);
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(farthest + column), _mm512_set1_ps(1.0f / 127.0f));
    const __mmask16 some = _mm512_cmp_ps_mask(scale, _mm512_set1_ps(1e-36f), _CMP_NLT_UQ);
    scale = _mm512_maskz_mov_ps(some, scale);
    _mm512_storeu_ps(head.value_scale + column, scale);
    const __m512 steps = _mm512_maskz_div_ps(some, _mm512_set1_ps(1.0f), scale);
    Word* panel = head.value_panels + column / kPanel * head.value_panel_words() + column % kPanel;
    for (int64_t token = 0; token < round_up(head.inner(), kGroup); token += 4) {
      __m512i word = _mm512_setzero_si512();
      for (int64_t b = smaller(head.inner() - token, 4) - 1; b >= 0; --b) {
        const __m512 x = load_bf16(head.inner_row(head.v, token + b) + column);
        const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(x, mean), steps));
        word = _mm512_or_si512(_mm512_slli_epi32(word, 8), _mm512_and_si512(v, _mm512_set1_epi32(0xff)));
      }
      _mm512_storeu_si512(panel + token / 4 * kPanel, word);
    }
  }
}

}  // namespace octavo::OCTAVO_ISA
