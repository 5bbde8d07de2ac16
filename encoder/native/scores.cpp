// Scores of a trained head: rows of bfloat16 times weights in float32. Each sum begins with its bias and takes its
// inputs in their order, so that a row's scores depend on that row alone, and not on the form.

#include "operations.h"
#include "product.h"
#include "scratch.h"
#include "threads.h"

namespace octavo::OCTAVO_FORM {
namespace {

// A block of rows by a few panels: as many sums as the registers hold.
template <int Rows, int Panels>
OCTAVO_INLINE void tile(const ScoresCall& call, const float* x, int64_t row, int64_t first) {
  const float* weight = call.weight + first * call.inputs;
  Floats sums[Rows][Panels];
  OCTAVO_UNROLL
  for (int r = 0; r < Rows; ++r)
    OCTAVO_UNROLL
    for (int p = 0; p < Panels; ++p) sums[r][p] = load(call.bias + first + p * kLanes);
  for (int64_t k = 0; k < call.inputs; ++k) {
    Floats weights[Panels];
    OCTAVO_UNROLL
    for (int p = 0; p < Panels; ++p) weights[p] = load(weight + (p * call.inputs + k) * kLanes);
    OCTAVO_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const Floats input = splat(x[r * call.inputs + k]);
      OCTAVO_UNROLL
      for (int p = 0; p < Panels; ++p) sums[r][p] = fma(input, weights[p], sums[r][p]);
    }
  }
  float whole[Rows][Panels * kLanes];
  OCTAVO_UNROLL
  for (int r = 0; r < Rows; ++r)
    OCTAVO_UNROLL
    for (int p = 0; p < Panels; ++p) store(whole[r] + p * kLanes, sums[r][p]);
  const int64_t columns = smaller(Panels * kLanes, call.outputs - first);
  for (int64_t r = 0; r < Rows; ++r)
    __builtin_memcpy(call.out + (row + r) * call.outputs + first, whole[r], columns * sizeof(float));
}

template <int Rows>
void block(const ScoresCall& call, int64_t row) {
  Scratch scratch;
  float* x = scratch.take<float>(Rows * call.inputs);
  for (int64_t i = 0; i < Rows * call.inputs; i += kLanes) store(x + i, load_bf16(call.x + row * call.inputs + i));
  for (int64_t first = 0; first < call.outputs; first += kScorePanels * kLanes) {
    const int64_t panels = (call.outputs - first + kLanes - 1) / kLanes;
    with_rows<kScorePanels>(smaller(panels, kScorePanels), [&]<int Panels>() {
      tile<Rows, Panels>(call, x, row, first);
    });
  }
}

void scores(const ScoresCall& call) {
  for (int64_t row = 0; row < call.rows; row += kScoreRows)
    with_rows<kScoreRows>(smaller(call.rows - row, kScoreRows), [&]<int Rows>() { block<Rows>(call, row); });
}

struct Scoring {
  ScoresCall call;
  Aside aside;

  explicit Scoring(const ScoresCall& call)
      : call(call), aside([](void* own) { scores(static_cast<Scoring*>(own)->call); }, this) {}
};

}  // namespace

void* begin_scores(const ScoresCall& call, int32_t threads) {
  if (threads > 1) return new Scoring(call);
  scores(call);
  return nullptr;
}

void end_scores(void* scoring) { delete static_cast<Scoring*>(scoring); }

}  // namespace octavo::OCTAVO_FORM
