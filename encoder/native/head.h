// One head of one segment, and bringing its keys and values to the order that products read.
#pragma once

#include <bit>

#include "product.h"
#include "simd.h"

namespace octavo::OCTAVO_ISA {

constexpr float kLog2E = 1.44269504f;

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
  float exponent_scale;  // from a score to its power of two
  bool bounded;          // no power of two can leave 2^-100 ... 2^100

  Word* key_panels;    // column j of panel p is key 32 p + j; a step is a pair of its numbers
  Word* value_panels;  // columns are the head's numbers; step 16 g + i is the pair of tokens 32 g + i and 32 g + 16 + i
  Word* end_panel;     // keys once more: column 0 is the first token's, column 1 the last one's

  int64_t key_panel_words() const { return size / 2 * kPanel; }
  int64_t value_panel_words() const { return round_up(tokens, kPanel) / 2 * kPanel; }
  int64_t value_columns() const { return round_up(size, kPanel); }
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

// Of norms the largest is sought by their bits: norms are not negative, so it is the same one, and what is not a number
// counts as larger than all numbers, where a float's maximum would lose it.

// Packs sixteen keys from `token` on into a half panel, and raises `norms` (squared, a key a lane) to theirs.
inline void pack_keys(const Head& head, int64_t token, Word* half_panel, __m512i& norms) {
  const Word* rows = reinterpret_cast<const Word*>(head.k + token * head.stride);
  const int64_t count = smaller(head.tokens - token, kLanes);
  const int64_t row_words = head.stride / 2;
  __m512i squares = _mm512_setzero_si512();
  for (int64_t word = 0; word < head.size / 2; word += kLanes) {
    const int64_t words = smaller(head.size / 2 - word, kLanes);
    const auto mask = static_cast<__mmask16>((1u << words) - 1);
    __m512i square[16];
    for (int64_t r = 0; r < kLanes; ++r)
      square[r] = r < count ? _mm512_maskz_loadu_epi32(mask, rows + r * row_words + word) : _mm512_setzero_si512();
    transpose(square);
    for (int64_t w = 0; w < words; ++w) {
      _mm512_storeu_si512(half_panel + (word + w) * kPanel, square[w]);
      squares = DotBf16::add(squares, square[w], square[w]);
    }
  }
  norms = _mm512_max_epu32(norms, squares);
}

inline float pack_all_keys(const Head& head) {
  __m512i norms = _mm512_setzero_si512();
  for (int64_t token = 0; token < head.tokens; token += kLanes)
    pack_keys(head, token, head.key_panels + token / kPanel * head.key_panel_words() + token % kPanel, norms);
  return std::sqrt(std::bit_cast<float>(_mm512_reduce_max_epu32(norms)));
}

inline void pack_end_keys(const Head& head) {
  const Word* first = reinterpret_cast<const Word*>(head.k);
  const Word* last = reinterpret_cast<const Word*>(head.k + (head.tokens - 1) * head.stride);
  for (int64_t word = 0; word < head.size / 2; ++word) {
    const __m512i pair = _mm512_maskz_set1_epi32(1, static_cast<int>(first[word]));
    _mm512_storeu_si512(head.end_panel + word * kPanel, _mm512_mask_set1_epi32(pair, 2, static_cast<int>(last[word])));
  }
}

inline void pack_values(const Head& head) {
  const auto load = [&head](int64_t token, int64_t column) {
    if (token >= head.tokens) return _mm512_setzero_si512();
    const Bf16* p = head.v + token * head.stride + column;
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  for (int64_t column = 0; column < head.size; column += kLanes) {
    Word* panel = head.value_panels + column / kPanel * head.value_panel_words() + column % kPanel;
    for (int64_t group = 0; group < head.tokens; group += kPanel)
      for (int64_t i = 0; i < kLanes; ++i) {
        const __m512i low = load(group + i, column);
        const __m512i high = _mm512_slli_epi32(load(group + kLanes + i, column), 16);
        _mm512_storeu_si512(panel + (group / 2 + i) * kPanel, _mm512_or_si512(low, high));
      }
  }
}

inline float largest_query(const Head& head) {
  uint32_t largest = 0;
  for (int64_t token = 0; token < head.tokens; ++token) {
    const Bf16* row = head.q + token * head.stride;
    __m512 squares = _mm512_setzero_ps();
    for (int64_t column = 0; column < head.size; column += kLanes) {
      const __m512 x = load_bf16(row + column);
      squares = _mm512_fmadd_ps(x, x, squares);
    }
    const auto norm = std::bit_cast<uint32_t>(_mm512_reduce_add_ps(squares));
    largest = norm > largest ? norm : largest;
  }
  return std::sqrt(std::bit_cast<float>(largest));
}

}  // namespace octavo::OCTAVO_ISA
