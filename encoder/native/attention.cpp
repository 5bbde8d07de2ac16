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

#include "head.h"
#include "operations.h"
#include "workers.h"

namespace octavo::OCTAVO_FORM {
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
  float* end_scores[kEnds];   // (kRows, in whole vectors)
  float* end_weights[kEnds];  // (kRows, in whole vectors)
  int32_t* largest;           // (kRows, in whole vectors): largest score
  float* start;               // (kRows, in whole vectors): reference that scores are subtracted from, in steps
  float* sums;                // (kRows): sums of the inner weights
  int32_t* values;            // (kRows, value_columns)
  int64_t stride;

  Workspace(Scratch& scratch, const Head& head) : stride(round_up(head.inner(), kGroup)) {
    scores = scratch.take<int32_t>(kRows * stride);
    weights = scratch.take<Word>(kRows * stride / 4);
    for (float*& each : end_scores) each = scratch.take<float>(round_up(kRows, kLanes));
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

  bool sees_all(int64_t key) const { return key >= low && key + kGroup <= high; }  // of the group that starts at `key`
  OCTAVO_INLINE Mask seen(int64_t key) const { return lanes(low - key, high - key); }
};

// Computes the scores of a block's queries with the two ends, in float, sixteen queries at a time.
void score_ends(const Head& head, const Block& block, const Workspace& work) {
  const int64_t pairs = head.size / 2;  // words of two bfloat16
  for (int64_t first = 0; first < block.count; first += kLanes) {
    Floats sums[kEnds] = {splat(0.0f), splat(0.0f)};
    for (int64_t pair = 0; pair < pairs; pair += kLanes) {
      Words square[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) {  // half a vector may lie beyond the head, but within the row: keys follow
        const int64_t row = smaller(first + r, block.count - 1);
        square[r] = load_word(reinterpret_cast<const Word*>(head.q + block.token(row) * head.stride) + pair);
      }
      transpose(square);
      for (int64_t w = 0; w < smaller(pairs - pair, kLanes); ++w)
        for (int64_t end = 0; end < kEnds; ++end) {
          const float* key = head.end_keys[end] + 2 * (pair + w);
          sums[end] = fma(floats(shift_left<16>(square[w])), splat(key[0]), sums[end]);
          sums[end] = fma(floats(square[w] & splat(static_cast<int32_t>(0xffff0000u))), splat(key[1]), sums[end]);
        }
    }
    for (int64_t end = 0; end < kEnds; ++end) store(work.end_scores[end] + first, sums[end]);
  }
}

// Computes a block's scores with inner keys and with the ends; returns their number.
int64_t score(Multiplier& multiplier, const Head& head, const Block& block, const Workspace& work) {
  const int64_t vectors = (block.keys() + kLanes - 1) / kLanes;
  const int64_t words = head.query_words();
  multiplier.multiply({head.queries + block.first * words, block.step * words, block.count,
                       head.key_panels + block.low / kPanel * head.key_panel_words(), head.key_panel_words(), vectors,
                       words, reinterpret_cast<Word*>(work.scores), work.stride},
                      Begin::kPanelRow);
  score_ends(head, block, work);
  return block.count * (vectors * kLanes + kEnds);
}

// Finds the largest score of each row among its visible inner keys.
void find_largest(const Head& head, const Block& block, const Workspace& work) {
  for (int64_t r = 0; r < block.count; ++r) {
    const Reach reach(head, block, block.token(r));
    const int32_t* scores = work.scores + r * work.stride;
    Words most = splat(INT32_MIN);
    for (int64_t key = block.low; key < block.high; key += kGroup, scores += kGroup)
      if (reach.sees_all(key))
        for (int64_t j = 0; j < kGroup; j += kLanes) most = max(most, load(scores + j));
      else
        for (int64_t j = 0; j < kGroup; j += kLanes)
          most = max(most, select(reach.seen(key + j), load(scores + j), splat(INT32_MIN)));
    work.largest[r] = reduce_max(most);
  }
}

// 2^x with an error of at most 2e-7, by the Taylor series around whole numbers; x is at most 100. Below -200, where the
// result is 0, it is clamped.
OCTAVO_INLINE Floats power_of_two(Floats x) {
  constexpr float kTerms[7] = {1.0f,           0.693147181f,   0.240226507f,  0.0555041087f,
                               0.00961812911f, 0.00133335581f, 0.000154035304f};
  x = max(splat(-200.0f), x);
  const Words whole = to_words(x);
  const Floats part = x - to_floats(whole);
  Floats p = splat(kTerms[6]);
  for (int i = 5; i >= 0; --i) p = fma(p, part, splat(kTerms[i]));
  // In two factors, each a normal number, so that a denormal result is rounded once.
  const Words half = shift_right<1>(whole + splat(256)) - splat(128);
  const auto power = [](Words exponent) { return floats(shift_left<23>(exponent + splat(127))); };
  return p * power(half) * power(whole - half);
}

// Computes each row's reference score and the weights of the ends, sixteen rows at a time.
void relate(const Head& head, const Block& block, const Workspace& work) {
  const Floats to_power = splat(head.exponent_scale), lead = splat(kLargestLead);
  for (int64_t r = 0; r < block.count; r += kLanes) {
    const Floats first = load(work.end_scores[0] + r) * to_power, last = load(work.end_scores[1] + r) * to_power;
    Floats top = max(first, last) - lead;
    if (head.inner()) top = max(top, to_floats(load(work.largest + r)) * splat(head.score_step / kStepsPerHalf));
    store(work.start + r, top * splat(kStepsPerHalf));
    // Clamped to the lead, which rounding can exceed for huge scores; NaN is preserved.
    const auto weight = [&](Floats score) { return power_of_two(min(lead, score - top)) * splat(kLargestWeight); };
    store(work.end_weights[0] + r, weight(first));
    store(work.end_weights[1] + r, head.tokens > 1 ? weight(last) : splat(0.0f));
  }
}

// Converts each row's scores to weights, and sums them.
void weigh(const Head& head, const Block& block, const Workspace& work) {
  const Floats step = splat(head.score_step), farthest = splat(65535.0f);
  for (int64_t r = 0; r < block.count; ++r) {
    const Reach reach(head, block, block.token(r));
    const int32_t* scores = work.scores + r * work.stride;
    auto* out = reinterpret_cast<uint8_t*>(work.weights + r * work.stride / 4);
    const Floats start = splat(work.start[r]);
    const auto below = [&](const int32_t* at) {  // clamped here, since an end's lead may be more than an int32 holds
      return to_words(min(fnma(to_floats(load(at)), step, start), farthest));
    };
    Words sum = splat(0);
    for (int64_t key = block.low; key < block.high; key += kGroup, scores += kGroup, out += kGroup) {
      Words group[kGroup / kLanes];
      if (reach.sees_all(key))
        for (int64_t j = 0; j < kGroup / kLanes; ++j) group[j] = below(scores + j * kLanes);
      else
        for (int64_t j = 0; j < kGroup / kLanes; ++j)
          group[j] = select(reach.seen(key + j * kLanes), below(scores + j * kLanes), splat(0xffff));
      store_weights(out, group, sum);
    }
    work.sums[r] = static_cast<float>(reduce_add(sum)) / kFineWeight;
  }
}

// Divides a block's sums of values by its sums of weights, both including the ends, and adds the values' mean.
void finish(const Head& head, const Block& block, const Workspace& work) {
  for (int64_t r = 0; r < block.count; ++r) {
    const float first = work.end_weights[0][r], last = work.end_weights[1][r];
    const Floats share = splat(1.0f / (work.sums[r] + first + last));
    const int32_t* values = work.values + r * head.value_columns();
    Bf16* out = head.out + block.token(r) * head.out_stride;
    for (int64_t column = 0; column < head.size; column += kLanes) {
      Floats x = to_floats(load(values + column)) * load(head.value_scale + column);
      x = fma(splat(first), load(head.end_values[0] + column), x);
      x = fma(splat(last), load(head.end_values[1] + column), x);
      store_bf16(out + column, fma(x, share, load(head.value_mean + column)));
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
  multiplier.multiply({work.weights, work.stride / 4, block.count, head.value_panels + block.low / 4 * kPanel,
                       head.value_panel_words(), head.size / kLanes, value_steps(head, block),
                       reinterpret_cast<Word*>(work.values), head.value_columns()},
                      Begin::kZero);
  finish(head, block, work);
  return done;
}

// --- Heads ----------------------------------------------------------------------------------------------------------

void pack(Scratch& scratch, Head& head) {
  const int64_t padded = round_up(head.inner(), kGroup);
  head.queries = scratch.take<Word>(head.tokens * head.query_words());
  head.key_panels = scratch.take<Word>(padded / kPanel * head.key_panel_words());
  head.value_panels = scratch.take<Word>(head.value_columns() / kPanel * head.value_panel_words());
  head.value_scale = scratch.take<float>(head.size);
  head.value_mean = scratch.take<float>(head.size);
  for (float*& each : head.end_keys) each = scratch.take<float>(head.size);
  for (float*& each : head.end_values) each = scratch.take<float>(head.size);
  float* key_mean = scratch.take<float>(head.size);
  float* farthest = scratch.take<float>(head.size);

  centre(head, head.k, key_mean, farthest);
  const float key_scale = pack_keys(scratch, head, key_mean, farthest);
  head.score_step = pack_queries(head) * key_scale * head.exponent_scale * kStepsPerHalf;
  if (head.score_step > kLargestStep) {
    head.exponent_scale *= kLargestStep / head.score_step;
    head.score_step = kLargestStep;
  }
  centre(head, head.v, head.value_mean, farthest);
  pack_values(head, farthest);
  pack_ends(head, key_mean);
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

int64_t attention(const AttentionCall& call, int32_t threads) {
  std::atomic<int64_t> done{0};
  const auto piece = [&](int64_t begin, int64_t, Multiplier& multiplier) {
    done += attend_head(multiplier, head_of(call, begin / call.heads, begin % call.heads));
  };
  for_each_piece<Multiplier>(threads, call.segments * call.heads, 1, piece);
  return done;
}

}  // namespace octavo::OCTAVO_FORM
