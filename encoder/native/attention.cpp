// Softmax attention within segments, limited to a window, in bfloat16 with float sums.
//
// Each head of each segment is a piece of work of its own: its keys and values are packed into panels once, then blocks
// of queries go over the panels that their window reaches, and over no others. The first and the last token of a
// segment are global: they see all keys, and all queries see them. A query's result is computed in the same order
// whatever lies beside its segment and however many threads there are.
//
// Softmax is taken without looking for a row's maximum wherever the norms of queries and keys prove, by Cauchy and
// Schwarz, that no exponential can leave float's range: in 71 of MiniLM's 72 heads, and 142 of multilingual-e5-small's
// 144. In the others scores are computed twice: for the maximum, then for the exponentials.

#include <atomic>

#include "exponent.h"
#include "head.h"
#include "operations.h"
#include "product.h"
#include "scratch.h"
#include "simd.h"
#include "workers.h"

namespace octavo::OCTAVO_ISA {
namespace {

// Powers of two that are safe without a maximum: 2^100 times any value, summed over any segment, stays within float's
// 2^127, and 2^-100 within its normal numbers.
constexpr float kSafeExponent = 100.0f;
constexpr int64_t kChunk = 4 * kPanel;  // keys whose scores are held at once: they stay in the first-level cache
constexpr Word kOnes = 0x3f803f80;      // two bfloat16 ones

// Queries that share their keys: `count` of them, `step` tokens apart, over the keys [low, high), and the segment's
// ends where those lie outside.
struct Block {
  int64_t first;
  int64_t step;
  int64_t count;
  int64_t low;   // a multiple of 32
  int64_t high;  // may lie past the last token, up to the end of its panel
  bool windowed;

  int64_t token(int64_t row) const { return first + row * step; }
};

// Where a block's numbers live while it is computed.
struct Workspace {
  static constexpr int64_t kRows = Multiplier::kRows;

  float* scores;      // (kRows, kChunk)
  float* end_scores;  // (kRows, 16): the first key's, the last key's
  Word* weights;      // (kRows, weight_stride): pairs of unnormalised weights, in the order of the values' steps
  Word* end_weights;  // (kRows): the pair of the first and the last key
  float* sums;        // (kRows, 16): partial sums of weights
  float* maxima;      // (kRows)
  float* values;      // (kRows, value_columns)
  int64_t weight_stride;

  Workspace(Scratch& scratch, const Head& head) : weight_stride(round_up(head.tokens, kPanel) / 2) {
    scores = scratch.take<float>(kRows * kChunk);
    end_scores = scratch.take<float>(kRows * kLanes);
    weights = scratch.take<Word>(kRows * weight_stride);
    end_weights = scratch.take<Word>(kRows);
    sums = scratch.take<float>(kRows * kLanes);
    maxima = scratch.take<float>(kRows);
    values = scratch.take<float>(kRows * head.value_columns());
  }
};

// --- Softmax --------------------------------------------------------------------------------------------------------

// The keys that a query may see, besides the segment's ends: [low, high).
struct Reach {
  int64_t low;
  int64_t high;

  Reach(const Head& head, const Block& block, int64_t token) : low(0), high(head.tokens) {
    if (block.windowed) {
      low = larger(token - head.window, 0);
      high = smaller(token + head.window + 1, head.tokens);
    }
  }

  // Which of the 32 keys from `key` on, and of the segment's ends among them, a bit each.
  OCTAVO_INLINE uint32_t among(int64_t key, int64_t tokens) const {
    if (key >= low && key + kPanel <= high) return ~0u;
    const int64_t from = smaller(larger(low - key, 0), kPanel);
    const int64_t to = smaller(larger(high - key, 0), kPanel);
    uint64_t bits = to > from ? ((uint64_t{1} << (to - from)) - 1) << from : 0;
    if (key == 0) bits |= 1;
    if (tokens - 1 - key < kPanel) bits |= uint64_t{1} << (tokens - 1 - key);
    return static_cast<uint32_t>(bits);
  }
};

// From a bit a key to a bit a number of the packed pairs: key i is number 2 i, key 16 + i is number 2 i + 1.
OCTAVO_INLINE __mmask32 pair_mask(uint32_t keys) {
  return _pdep_u32(keys, 0x55555555u) | _pdep_u32(keys >> 16, 0xaaaaaaaau);
}

// Whether a block's keys leave out the first token, as bit 0, and the last one, as bit 1.
OCTAVO_INLINE uint32_t ends_outside(const Head& head, const Block& block) {
  return (block.low > 0 ? 1u : 0u) | (block.high < head.tokens ? 2u : 0u);
}

int64_t score(Multiplier& multiplier, const Head& head, const Block& block, const Word* panels, int64_t vectors,
              float* scores, int64_t stride) {
  multiplier.multiply<DotBf16>({reinterpret_cast<const Word*>(head.q + block.first * head.stride),
                                block.step * head.stride / 2, block.count, panels, head.key_panel_words(), vectors,
                                head.size / 2, reinterpret_cast<Word*>(scores), stride});
  return block.count * vectors * kLanes;
}

// Computes the scores of the block's keys from `key` on, at most kChunk of them; returns the work done.
int64_t score_chunk(Multiplier& multiplier, const Head& head, const Block& block, int64_t key, float* scores) {
  const int64_t keys = smaller(smaller(block.high, head.tokens) - key, kChunk);
  const Word* panels = head.key_panels + key / kPanel * head.key_panel_words();
  return score(multiplier, head, block, panels, (keys + kLanes - 1) / kLanes, scores, kChunk);
}

// Finds the largest score of each row, among the keys that it may see.
int64_t find_maxima(Multiplier& multiplier, const Head& head, const Block& block, Workspace& work) {
  int64_t done = 0;
  const auto ends = static_cast<__mmask16>(ends_outside(head, block));
  const __m512 lowest = _mm512_set1_ps(-INFINITY);
  for (int64_t r = 0; r < block.count; ++r)
    work.maxima[r] = _mm512_mask_reduce_max_ps(ends, _mm512_loadu_ps(work.end_scores + r * kLanes));
  for (int64_t key = block.low; key < block.high; key += kChunk) {
    done += score_chunk(multiplier, head, block, key, work.scores);
    for (int64_t r = 0; r < block.count; ++r) {
      const Reach reach(head, block, block.token(r));
      __m512 most = lowest;
      for (int64_t panel = key; panel < smaller(key + kChunk, block.high); panel += kPanel) {
        const uint32_t keys = reach.among(panel, head.tokens);
        const float* scores = work.scores + r * kChunk + (panel - key);
        most = _mm512_mask_max_ps(most, static_cast<__mmask16>(keys), most, _mm512_loadu_ps(scores));
        most = _mm512_mask_max_ps(most, static_cast<__mmask16>(keys >> 16), most, _mm512_loadu_ps(scores + kLanes));
      }
      const float found = _mm512_reduce_max_ps(most);
      work.maxima[r] = found > work.maxima[r] ? found : work.maxima[r];
    }
  }
  return done;
}

// Turns one row's scores of a chunk into weights, and adds them to the row's sums.
template <bool Bounded>
OCTAVO_INLINE void weigh_row(const PowerOfTwo& power, const Head& head, const Block& block, Workspace& work, int64_t r,
                             int64_t key) {
  const __m512 offset = PowerOfTwo::offset(Bounded ? 0.0f : work.maxima[r] * head.exponent_scale);
  const auto fixed = [&](const float* scores) {
    const __m512 x = _mm512_loadu_ps(scores);
    return Bounded ? power.fixed(x, offset) : power.fixed_clamped(x, offset);
  };
  const Reach reach(head, block, block.token(r));
  const __m512i ones = _mm512_set1_epi32(kOnes);
  __m512i sum = _mm512_loadu_si512(work.sums + r * kLanes);
  const float* scores = work.scores + r * kChunk;
  Word* weights = work.weights + r * work.weight_stride + (key - block.low) / 2;
  for (int64_t panel = key; panel < smaller(key + kChunk, block.high); panel += kPanel) {
    const uint32_t keys = reach.among(panel, head.tokens);
    const __mmask32 mask = keys == ~0u ? keys : pair_mask(keys);
    const __m512i pairs = power.pairs(mask, fixed(scores), fixed(scores + kLanes));
    sum = DotBf16::add(sum, pairs, ones);
    _mm512_storeu_si512(weights, pairs);
    scores += kPanel;
    weights += kLanes;
  }
  _mm512_storeu_si512(work.sums + r * kLanes, sum);
}

// Weighs the segment's ends where the block's keys leave them out, and begins each row's sums with them.
template <bool Bounded>
void weigh_ends(const PowerOfTwo& power, const Head& head, const Block& block, Workspace& work) {
  const __mmask32 ends = ends_outside(head, block);
  for (int64_t r = 0; r < block.count; ++r) {
    __m512i pairs = _mm512_setzero_si512();
    if (ends) {
      const __m512 scores = _mm512_loadu_ps(work.end_scores + r * kLanes);
      const __m512 offset = PowerOfTwo::offset(Bounded ? 0.0f : work.maxima[r] * head.exponent_scale);
      const __m512 fixed = Bounded ? power.fixed(scores, offset) : power.fixed_clamped(scores, offset);
      const __m512i last = _mm512_maskz_alignr_epi32(1, _mm512_castps_si512(fixed), _mm512_castps_si512(fixed), 1);
      pairs = power.pairs(ends, fixed, _mm512_castsi512_ps(last));
    }
    work.end_weights[r] = static_cast<Word>(_mm_cvtsi128_si32(_mm512_castsi512_si128(pairs)));
    const __m512i sum = DotBf16::add(_mm512_setzero_si512(), pairs, _mm512_set1_epi32(kOnes));
    _mm512_storeu_si512(work.sums + r * kLanes, sum);
  }
}

// Divides a block's sums of values by its sums of weights, after adding the ends' share.
void finish(const Head& head, const Block& block, const Workspace& work) {
  const bool ends = ends_outside(head, block) != 0;
  const Bf16* first = head.v;
  const Bf16* last = head.v + (head.tokens - 1) * head.stride;
  for (int64_t r = 0; r < block.count; ++r) {
    const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_loadu_ps(work.sums + r * kLanes)));
    const Word pair = work.end_weights[r];
    const __m512 first_weight = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair << 16)));
    const __m512 last_weight = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair & 0xffff0000u)));
    const float* values = work.values + r * head.value_columns();
    Bf16* out = head.out + block.token(r) * head.out_stride;
    for (int64_t column = 0; column < head.size; column += kLanes) {
      __m512 x = _mm512_loadu_ps(values + column);
      if (ends) {
        x = _mm512_fmadd_ps(first_weight, load_bf16(first + column), x);
        x = _mm512_fmadd_ps(last_weight, load_bf16(last + column), x);
      }
      store_bf16(out + column, _mm512_mul_ps(x, share));
    }
  }
}

template <bool Bounded>
int64_t attend(Multiplier& multiplier, const Head& head, const Block& block, Workspace& work) {
  const PowerOfTwo power(head.exponent_scale);
  int64_t done = 0;
  if (ends_outside(head, block)) done += score(multiplier, head, block, head.end_panel, 1, work.end_scores, kLanes);
  if (!Bounded) done += find_maxima(multiplier, head, block, work);
  weigh_ends<Bounded>(power, head, block, work);
  for (int64_t key = block.low; key < block.high; key += kChunk) {
    done += score_chunk(multiplier, head, block, key, work.scores);
    for (int64_t r = 0; r < block.count; ++r) weigh_row<Bounded>(power, head, block, work, r, key);
  }
  multiplier.multiply<DotBf16>({work.weights, work.weight_stride, block.count,
                                head.value_panels + block.low / 2 * kPanel, head.value_panel_words(),
                                head.size / kLanes, (block.high - block.low) / 2, reinterpret_cast<Word*>(work.values),
                                head.value_columns()});
  finish(head, block, work);
  return done;
}

// --- Heads ----------------------------------------------------------------------------------------------------------

// What is not a number among queries or keys makes nothing a number, instead of something that looks like one.
int64_t forget(const Head& head) {
  for (int64_t token = 0; token < head.tokens; ++token)
    for (int64_t column = 0; column < head.size; column += kLanes)
      store_bf16(head.out + token * head.out_stride + column, _mm512_set1_ps(NAN));
  return 0;
}

int64_t attend_head(Multiplier& multiplier, Head head) {
  if (head.tokens == 0) return 0;
  Scratch scratch;
  const int64_t padded = round_up(head.tokens, kPanel);
  head.key_panels = scratch.take<Word>(padded / kPanel * head.key_panel_words());
  head.value_panels = scratch.take<Word>(head.value_columns() / kPanel * head.value_panel_words());
  head.end_panel = scratch.take<Word>(head.key_panel_words());
  Workspace work(scratch, head);

  const float bound = pack_all_keys(head) * largest_query(head) * std::fabs(head.exponent_scale);
  if (!std::isfinite(bound)) return forget(head);
  head.bounded = bound < kSafeExponent;
  pack_values(head);
  const auto run = [&](const Block& block) {
    return head.bounded ? attend<true>(multiplier, head, block, work) : attend<false>(multiplier, head, block, work);
  };

  int64_t done = 0;
  constexpr int64_t rows = Multiplier::kRows;
  if (head.window == 0 || head.window >= head.tokens - 2) {
    for (int64_t first = 0; first < head.tokens; first += rows)
      done += run({first, 1, smaller(rows, head.tokens - first), 0, padded, false});
    return done;
  }
  pack_end_keys(head);
  done += run({0, head.tokens - 1, 2, 0, padded, false});
  for (int64_t first = 1; first < head.tokens - 1; first += rows) {
    const int64_t count = smaller(rows, head.tokens - 1 - first);
    const int64_t low = larger(first - head.window, 0) / kPanel * kPanel;
    const int64_t high = smaller(round_up(first + count + head.window, kPanel), padded);
    done += run({first, 1, count, low, high, true});
  }
  return done;
}

}  // namespace

int64_t attention(const AttentionCall& call, const Workers& workers) {
  std::atomic<int64_t> done{0};
  const auto piece = [&](int64_t begin, int64_t, Multiplier& multiplier) {
    done += attend_head(multiplier, head_of(call, begin / call.heads, begin % call.heads));
  };
  for_each_piece<Multiplier>(workers, call.segments * call.heads, 1, piece);
  return done;
}

}  // namespace octavo::OCTAVO_ISA
