// Softmax attention within segments, limited to a window, in 8 bits with exact sums; a segment's ends in float.
//
// Each head of each segment is a piece of work: its queries, keys and values are quantised once (see head.h), then
// blocks of queries are multiplied only with keys in their window. A segment's first and last tokens are global: they
// attend to, and are attended by, all. A query's result is computed in the same order whatever the other segments and
// the number of threads.
//
// A query's weights are rounded to bytes relative to its largest inner weight. Two measures keep the error small: the
// ends' weights are not rounded; and weights are divided by their sum before rounding, while the values' mean is
// subtracted before and added after, so that weight lost in rounding counts as the mean, not as zero.
// encoder/ops/bytes.py is the same in plain PyTorch, with the effect of each measure.

#include <atomic>
#include <type_traits>

#include "exponent.h"
#include "head.h"
#include "operations.h"
#include "product.h"
#include "scratch.h"
#include "simd.h"
#include "workers.h"

namespace octavo::OCTAVO_ISA {
namespace {

// Powers of two by which an end's weight may exceed the largest inner one: beyond, inner weights are negligible in
// float, and it would soon overflow.
constexpr float kLargestLead = 60.0f;
// Maximum 64ths of a power of two per unit of a score, so that differences of scores fit 32 bits. Only scores of tens
// of thousands reach it; all scores of such a head are scaled down equally, and softmax is then one-hot anyway.
constexpr float kLargestStep = 32.0f;

// Queries that share their keys: `count` of them, `step` tokens apart, over the inner keys [low, high).
struct Block {
  int64_t first;
  int64_t step;
  int64_t count;
  int64_t low;  // a multiple of kPanel
  int64_t high;
  bool windowed;

  int64_t keys() const { return high - low; }
  int64_t token(int64_t row) const { return first + row * step; }
};

// A block's scratch memory.
struct Workspace {
  static constexpr int64_t kRows = Multiplier::kRows;

  int32_t* scores;            // (kRows, stride)
  Word* weights;              // (kRows, stride / 4)
  float* end_scores;          // (kRows in whole vectors, 16): columns as in Head::end_panel
  float* end_weights[kEnds];  // (kRows, in whole vectors)
  int32_t* largest;           // (kRows, in whole vectors): largest score
  float* start;               // (kRows, in whole vectors): reference that scores are subtracted from, in steps
  float* sums;                // (kRows): sums of the inner weights
  int32_t* values;            // (kRows, value_columns)
  int64_t stride;

  Workspace(Scratch& scratch, const Head& head) : stride(round_up(head.inner(), kGroup)) {
    scores = scratch.take<int32_t>(kRows * stride);
    weights = scratch.take<Word>(kRows * stride / 4);
    end_scores = scratch.take<float>(round_up(kRows, kLanes) * kLanes);
    for (float*& each : end_weights) each = scratch.take<float>(round_up(kRows, kLanes));
    largest = scratch.take<int32_t>(round_up(kRows, kLanes));
    start = scratch.take<float>(round_up(kRows, kLanes));
    sums = scratch.take<float>(kRows);
    values = scratch.take<int32_t>(kRows * head.value_columns());
  }
};

// --- Softmax --------------------------------------------------------------------------------------------------------

// The inner keys that a query attends to: [low, high).
struct Reach {
  int64_t low;
  int64_t high;

  Reach(const Head& head, const Block& block, int64_t token) : low(0), high(head.inner()) {
    if (block.windowed) {
      low = larger(token - 1 - head.window, 0);
      high = smaller(token + head.window, head.inner());
    }
  }

  // Calls f(masked, mask) for the 64 keys starting at `key`, with a bit for each visible key; masked is false if all
  // are.
  template <class F>
  OCTAVO_INLINE void visit(int64_t key, const F& f) const {
    if (key >= low && key + kGroup <= high) return f(std::false_type(), ~uint64_t{0});
    const int64_t from = smaller(larger(low - key, 0), kGroup);
    const int64_t to = smaller(larger(high - key, 0), kGroup);
    f(std::true_type(), to > from ? ~uint64_t{0} >> (kGroup - (to - from)) << from : 0);
  }
};

// Computes a block's scores with inner keys and with the ends; returns their number.
int64_t score(Multiplier& multiplier, const Head& head, const Block& block, const Workspace& work) {
  const int64_t vectors = (block.keys() + kLanes - 1) / kLanes;
  const int64_t words = head.query_words();
  multiplier.multiply<DotBytes, Begin::kPanelRow>({head.queries + block.first * words, block.step * words, block.count,
                                                   head.key_panels + block.low / kPanel * head.key_panel_words(),
                                                   head.key_panel_words(), vectors, words,
                                                   reinterpret_cast<Word*>(work.scores), work.stride});
  multiplier.multiply<DotBf16>({reinterpret_cast<const Word*>(head.q + block.first * head.stride),
                                block.step * head.stride / 2, block.count, head.end_panel, 0, 1, head.size / 2,
                                reinterpret_cast<Word*>(work.end_scores), kLanes});
  return block.count * (vectors * kLanes + kEnds);
}

// Finds the largest score of each row among its visible inner keys.
void find_largest(const Head& head, const Block& block, const Workspace& work) {
  for (int64_t r = 0; r < block.count; ++r) {
    const Reach reach(head, block, block.token(r));
    const int32_t* scores = work.scores + r * work.stride;
    __m512i most = _mm512_set1_epi32(INT32_MIN);
    for (int64_t key = block.low; key < block.high; key += kGroup, scores += kGroup)
      reach.visit(key, [&](auto masked, uint64_t seen) {
        for (int64_t j = 0; j < kGroup / kLanes; ++j) {
          const __m512i x = _mm512_loadu_si512(scores + j * kLanes);
          const auto mask = static_cast<__mmask16>(masked ? seen >> j * kLanes : 0xffff);
          most = masked ? _mm512_mask_max_epi32(most, mask, most, x) : _mm512_max_epi32(most, x);
        }
      });
    work.largest[r] = _mm512_reduce_max_epi32(most);
  }
}

// Computes each row's reference score and the weights of the ends, sixteen rows at a time.
void relate(const Head& head, const Block& block, const Workspace& work) {
  const __m512 to_power = _mm512_set1_ps(head.exponent_scale), per_half = _mm512_set1_ps(kStepsPerHalf);
  const __m512 lead = _mm512_set1_ps(kLargestLead);
  const __m512i rows = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __mmask16 two_ends = head.tokens > 1 ? 0xffff : 0;
  for (int64_t r = 0; r < block.count; r += kLanes) {
    const auto end_score = [&](int64_t column) {
      return _mm512_i32gather_ps(_mm512_slli_epi32(rows, 4), work.end_scores + r * kLanes + column, 4);
    };
    const __m512 mean = _mm512_add_ps(end_score(2), end_score(3));
    const __m512 first = _mm512_mul_ps(_mm512_sub_ps(end_score(0), mean), to_power);
    const __m512 last = _mm512_mul_ps(_mm512_sub_ps(end_score(1), mean), to_power);
    __m512 top = _mm512_sub_ps(_mm512_max_ps(first, last), lead);
    if (head.inner()) {
      const __m512 score = _mm512_cvtepi32_ps(_mm512_loadu_si512(work.largest + r));
      top = _mm512_max_ps(top, _mm512_mul_ps(score, _mm512_set1_ps(head.score_step / kStepsPerHalf)));
    }
    _mm512_storeu_ps(work.start + r, _mm512_mul_ps(top, per_half));
    // Clamped to the lead, which rounding can exceed for huge scores; NaN is preserved.
    const auto weight = [&](__m512 score) {
      const __m512 above = _mm512_min_ps(lead, _mm512_sub_ps(score, top));
      return _mm512_mul_ps(power_of_two(above), _mm512_set1_ps(kLargestWeight));
    };
    _mm512_storeu_ps(work.end_weights[0] + r, weight(first));
    _mm512_storeu_ps(work.end_weights[1] + r, _mm512_maskz_mov_ps(two_ends, weight(last)));
  }
}

// Converts each row's scores to weights, and sums them.
void weigh(const Head& head, const Block& block, const Workspace& work) {
  const ByteWeights weights;
  const __m512i far = _mm512_set1_epi32(0xffff);
  const __m512 step = _mm512_set1_ps(head.score_step);
  for (int64_t r = 0; r < block.count; ++r) {
    const Reach reach(head, block, block.token(r));
    const int32_t* scores = work.scores + r * work.stride;
    Word* out = work.weights + r * work.stride / 4;
    const __m512 start = _mm512_set1_ps(work.start[r]);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t key = block.low; key < block.high; key += kGroup, scores += kGroup, out += kLanes)
      reach.visit(key, [&](auto masked, uint64_t seen) {
        __m512i below[4];
        for (int64_t j = 0; j < 4; ++j) {
          const __m512 score = _mm512_cvtepi32_ps(_mm512_loadu_si512(scores + j * kLanes));
          const __m512 x = _mm512_fnmadd_ps(score, step, start);
          const auto mask = static_cast<__mmask16>(masked ? seen >> j * kLanes : 0xffff);
          below[j] = masked ? _mm512_mask_cvtps_epi32(far, mask, x) : _mm512_cvtps_epi32(x);
        }
        _mm512_storeu_si512(out, weights.from(below, sum));
      });
    work.sums[r] = static_cast<float>(_mm512_reduce_add_epi32(sum)) / kFineWeight;
  }
}

// Divides a block's sums of values by its sums of weights, both including the ends, and adds the values' mean.
void finish(const Head& head, const Block& block, const Workspace& work) {
  for (int64_t r = 0; r < block.count; ++r) {
    const float first = work.end_weights[0][r], last = work.end_weights[1][r];
    const __m512 share = _mm512_set1_ps(1.0f / (work.sums[r] + first + last));
    const __m512 first_weight = _mm512_set1_ps(first), last_weight = _mm512_set1_ps(last);
    const int32_t* values = work.values + r * head.value_columns();
    Bf16* out = head.out + block.token(r) * head.out_stride;
    for (int64_t column = 0; column < head.size; column += kLanes) {
      const __m512 inner = _mm512_cvtepi32_ps(_mm512_loadu_si512(values + column));
      __m512 x = _mm512_mul_ps(inner, _mm512_loadu_ps(head.value_scale + column));
      x = _mm512_fmadd_ps(first_weight, _mm512_loadu_ps(head.end_values[0] + column), x);
      x = _mm512_fmadd_ps(last_weight, _mm512_loadu_ps(head.end_values[1] + column), x);
      store_bf16(out + column, _mm512_fmadd_ps(x, share, _mm512_loadu_ps(head.value_mean + column)));
    }
  }
}

// Tiles take sixteen steps at once: padding with zero weights is faster than a remainder without tiles.
int64_t value_steps(const Head& head, const Block& block) {
  if (!Multiplier::kTiles) return (block.keys() + 3) / 4;
  return smaller(round_up(block.keys(), kGroup), round_up(head.inner(), kGroup) - block.low) / 4;
}

int64_t attend(Multiplier& multiplier, const Head& head, const Block& block, Workspace& work) {
  const int64_t done = score(multiplier, head, block, work);
  find_largest(head, block, work);
  relate(head, block, work);
  weigh(head, block, work);
  multiplier.multiply<DotBytes>({work.weights, work.stride / 4, block.count,
                                 head.value_panels + block.low / 4 * kPanel, head.value_panel_words(),
                                 head.size / kLanes, value_steps(head, block),
                                 reinterpret_cast<Word*>(work.values), head.value_columns()});
  finish(head, block, work);
  return done;
}

// --- Heads ----------------------------------------------------------------------------------------------------------

void pack(Scratch& scratch, Head& head) {
  const int64_t padded = round_up(head.inner(), kGroup);
  head.queries = scratch.take<Word>(head.tokens * head.query_words());
  head.key_panels = scratch.take<Word>(padded / kPanel * head.key_panel_words());
  head.end_panel = scratch.take<Word>(head.size / 2 * kPanel);
  head.value_panels = scratch.take<Word>(head.value_columns() / kPanel * head.value_panel_words());
  head.value_scale = scratch.take<float>(head.size);
  head.value_mean = scratch.take<float>(head.size);
  for (float*& each : head.end_values) each = scratch.take<float>(head.size);
  float* key_mean = scratch.take<float>(head.size);
  float* farthest = scratch.take<float>(head.size);

  centre(head, head.k, key_mean, farthest);
  const float key_scale = pack_keys(head, key_mean, farthest, scratch.take<int8_t>(kLanes * head.size));
  head.score_step = pack_queries(head) * key_scale * head.exponent_scale * kStepsPerHalf;
  if (head.score_step > kLargestStep) {
    head.exponent_scale *= kLargestStep / head.score_step;
    head.score_step = kLargestStep;
  }
  centre(head, head.v, head.value_mean, farthest);
  pack_values(head, farthest);
  pack_ends(head, key_mean, scratch.take<Bf16>(2 * kEnds * head.size));
}

int64_t attend_head(Multiplier& multiplier, Head head) {
  if (head.tokens == 0) return 0;
  Scratch scratch;
  pack(scratch, head);
  Workspace work(scratch, head);
  int64_t done = 0;
  const auto run = [&](const Block& block) { done += attend(multiplier, head, block, work); };

  constexpr int64_t rows = Multiplier::kRows;
  const int64_t inner = head.inner();
  if (head.window == 0 || head.window >= head.tokens - 2) {
    for (int64_t first = 0; first < head.tokens; first += rows)
      run({first, 1, smaller(rows, head.tokens - first), 0, inner, false});
    return done;
  }
  run({0, head.tokens - 1, kEnds, 0, inner, false});
  for (int64_t first = 0; first < inner; first += rows) {
    const int64_t count = smaller(rows, inner - first);
    const int64_t low = larger(first - head.window, 0) / kPanel * kPanel;
    run({first + 1, 1, count, low, smaller(first + count + head.window, inner), true});
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
