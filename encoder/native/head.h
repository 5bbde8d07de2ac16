// One head of one segment: quantises its queries, keys and values to 8 bits, in the order that products read.
//
// A segment's first and last tokens, its ends, are the models' attention sinks. They stay in float: their keys can be
// far larger than all others, and next to their weights other weights would vanish in 8 bits. The tokens between them
// are `inner` tokens, counted from the segment's second token.
#pragma once

#include "scratch.h"
#include "vectors.h"

namespace octavo::OCTAVO_FORM {

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kGroup = 64;  // inner tokens whose weights are computed at once
constexpr int64_t kEnds = 2;
constexpr int32_t kQueryZero = 128;  // also as a shift by 7
constexpr float kLeastScale = 1e-36f;  // below, a reciprocal would overflow

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

  Word* queries;             // (tokens, query_words): bytes around kQueryZero
  Word* key_panels;          // column j of panel p is inner key 32 p + j; a step is four numbers; a row starts sums
  float score_step;          // converts an integer score to 64ths of a power of two
  float* end_keys[kEnds];    // (size): less the inner keys' mean
  Word* value_panels;        // columns are the head's numbers; a step is four inner tokens
  float* value_scale;        // (size)
  float* value_mean;         // (size)
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
  head.exponent_scale = kLog2E / __builtin_sqrtf(static_cast<float>(call.head_size));
  head.q = call.qkv + begin * head.stride + index * head.size;
  head.k = head.q + hidden;
  head.v = head.k + hidden;
  head.out = call.out + begin * hidden + index * head.size;
  return head;
}

// The scale for numbers of this size; tiny ones count as zeros.
OCTAVO_INLINE float signed_scale(float largest) { return largest < kLeastScale ? 0.0f : largest / 127.0f; }
OCTAVO_INLINE Floats per_step(float scale) { return splat(scale == 0.0f ? 0.0f : 1.0f / scale); }

// Computes the mean of each column of the inner rows, and the largest distance from it. One pass suffices: rounding
// preserves order, so the largest or smallest number is the farthest. NaN propagates to both.
inline void centre(const Head& head, const Bf16* rows, float* mean, float* farthest) {
  constexpr int64_t kAtOnce = 4;  // independent sums
  const int64_t count = head.inner();
  for (int64_t column = 0; column < head.size; column += kLanes) {
    Floats sum[kAtOnce], most[kAtOnce], least[kAtOnce];
    for (int64_t i = 0; i < kAtOnce; ++i) {
      sum[i] = splat(0.0f);
      most[i] = splat(count ? -__builtin_inff() : 0.0f);
      least[i] = splat(count ? __builtin_inff() : 0.0f);
    }
    const auto take = [&](int64_t token, int64_t i) {
      const Floats x = load_bf16(head.inner_row(rows, token) + column);
      sum[i] = sum[i] + x;
      most[i] = max(most[i], x);
      least[i] = min(least[i], x);
    };
    int64_t token = 0;
    for (; token + kAtOnce <= count; token += kAtOnce)
      for (int64_t i = 0; i < kAtOnce; ++i) take(token + i, i);
    for (; token < count; ++token) take(token, 0);
    for (int64_t i = 1; i < kAtOnce; ++i) {
      sum[0] = sum[0] + sum[i];
      most[0] = max(most[0], most[i]);
      least[0] = min(least[0], least[i]);
    }
    const Floats middle = sum[0] * splat(count ? 1.0f / static_cast<float>(count) : 0.0f);
    store(mean + column, middle);
    store(farthest + column, max(most[0] - middle, middle - least[0]));
  }
}

OCTAVO_INLINE void store_word(Word* p, Words x) { store(reinterpret_cast<int32_t*>(p), x); }
OCTAVO_INLINE Words load_word(const Word* p) { return load(reinterpret_cast<const int32_t*>(p)); }

// Subtracts the mean from the keys, which shifts all scores of a query equally and so changes no weight, and scales all
// inner keys equally, so that softmax finds its largest score among integers. Returns their scale.
inline float pack_keys(Scratch& scratch, const Head& head, const float* mean, const float* farthest) {
  Floats largest = splat(0.0f);
  for (int64_t column = 0; column < head.size; column += kLanes) largest = max(largest, load(farthest + column));
  const float scale = signed_scale(reduce_max(largest));
  const Floats steps = per_step(scale);
  const int64_t words = round_up(head.size / 4, kLanes);
  Word* sixteen = scratch.take<Word>(kLanes * words);  // keys, padded with zeros
  __builtin_memset(sixteen, 0, static_cast<size_t>(kLanes * words) * sizeof(Word));
  for (int64_t first = 0; first < head.inner(); first += kLanes) {
    const int64_t count = smaller(head.inner() - first, kLanes);
    int32_t begin[kLanes] = {};
    for (int64_t r = 0; r < count; ++r) {
      Words sum = splat(0);
      for (int64_t column = 0; column < head.size; column += kLanes) {
        const Floats x = load_bf16(head.inner_row(head.k, first + r) + column);
        const Words k = to_words((x - load(mean + column)) * steps);
        store_signed(reinterpret_cast<int8_t*>(sixteen + r * words) + column, k);
        sum = sum + k;
      }
      begin[r] = reduce_add(sum);
    }
    Word* half_panel = head.key_panels + first / kPanel * head.key_panel_words() + first % kPanel;
    for (int64_t word = 0; word < head.query_words(); word += kLanes) {
      Words square[kLanes];
      for (int64_t r = 0; r < kLanes; ++r)
        square[r] = r < count ? load_word(sixteen + r * words + word) : splat(0);
      transpose(square);
      for (int64_t w = 0; w < smaller(head.query_words() - word, kLanes); ++w)
        store_word(half_panel + (word + w) * kPanel, square[w]);
    }
    store_word(half_panel + head.query_words() * kPanel, splat(0) - shift_left<7>(load(begin)));
  }
  return scale;
}

// Scales all queries equally. Returns their scale.
inline float pack_queries(const Head& head) {
  Words largest = splat(0);  // of bits without the sign, which are ordered as the numbers are
  for (int64_t token = 0; token < head.tokens; ++token)
    for (int64_t column = 0; column < head.size; column += kLanes)
      largest = max(largest, load_halves(head.q + token * head.stride + column) & splat(0x7fff));
  const float scale = signed_scale(widened(static_cast<Bf16>(reduce_max(largest))));
  const Floats steps = per_step(scale), zero = splat(static_cast<float>(kQueryZero));
  for (int64_t token = 0; token < head.tokens; ++token) {
    Word* words = head.queries + token * head.query_words();
    for (int64_t column = 0; column < head.size; column += kLanes) {
      const Floats x = load_bf16(head.q + token * head.stride + column);
      store_bytes(reinterpret_cast<uint8_t*>(words) + column, to_words(fma(x, steps, zero)));
    }
    for (int64_t word = head.size / 4; word < head.query_words(); ++word) words[word] = 0;
  }
  return scale;
}

// The ends' keys and values, minus the means. A single token is both ends.
inline void pack_ends(const Head& head, const float* key_mean) {
  for (int64_t end = 0; end < kEnds; ++end) {
    const int64_t row = end * (head.tokens - 1) * head.stride;
    for (int64_t column = 0; column < head.size; column += kLanes) {
      store(head.end_keys[end] + column, load_bf16(head.k + row + column) - load(key_mean + column));
      store(head.end_values[end] + column, load_bf16(head.v + row + column) - load(head.value_mean + column));
    }
  }
}

// Subtracts the mean from the values, and scales each column by its largest number. The weighted mean of the remainder
// plus that mean is the weighted mean, so weight lost in rounding only loses its share of a difference.
inline void pack_values(const Head& head, const float* farthest) {
  for (int64_t column = 0; column < head.size; column += kLanes) {
    const Floats mean = load(head.value_mean + column);
    const Floats scale = max(splat(kLeastScale), load(farthest + column) * splat(1.0f / 127.0f));
    store(head.value_scale + column, scale);
    const Floats steps = splat(1.0f) / scale;
    Word* panel = head.value_panels + column / kPanel * head.value_panel_words() + column % kPanel;
    for (int64_t token = 0; token < round_up(head.inner(), kGroup); token += 4) {
      Words word = splat(0);
      for (int64_t b = smaller(head.inner() - token, 4) - 1; b >= 0; --b) {
        const Floats x = load_bf16(head.inner_row(head.v, token + b) + column);
        word = shift_left<8>(word) | (to_words((x - mean) * steps) & splat(0xff));
      }
      store_word(panel + token / 4 * kPanel, word);
    }
  }
}

}  // namespace octavo::OCTAVO_FORM
