// Embeddings, and whole layers in one call: the same operations on the same rows, and so the same bits, but each block
// of rows passes through all operations between two attentions while it is in the cache, and Python is called once.

#include "blocks.h"
#include "operations.h"
#include "workers.h"

namespace octavo::OCTAVO_FORM {
namespace {

// Computes queries, keys and values from a block of the state.
void enter(Multiplier& multiplier, const Layer& layer, const Bf16* state, int64_t count, Bf16* qkv) {
  Scratch scratch;
  const int64_t hidden = layer.qkv.inputs;
  const Rows rows = take_rows(scratch, count, hidden, layer.qkv.input.outliers);
  quantise_block(scratch, state, count, hidden, layer.qkv.input, rows);
  linear_block(multiplier, scratch, rows, count, layer.qkv, qkv);
}

// Computes a block's state above the layer from its contexts, in place, and the next layer's queries, keys and values.
void pass(Multiplier& multiplier, const Layer& layer, const Layer* next, const Bf16* context, int64_t count,
          Bf16* state, Bf16* qkv) {
  Scratch scratch;
  const int64_t hidden = layer.mix.inputs;
  const Rows mixed = take_rows(scratch, count, hidden, layer.mix.input.outliers);
  const Rows narrow = take_rows(scratch, count, hidden, layer.up.input.outliers);
  const Rows wide = take_rows(scratch, count, layer.up.outputs, layer.down.input.outliers);
  quantise_block(scratch, context, count, hidden, layer.mix.input, mixed);
  norm_block(multiplier, scratch, mixed, count, layer.mix, state, layer.mix_norm, &layer.up.input, state, &narrow);
  activate_block(multiplier, scratch, narrow, count, layer.up, layer.activation, layer.down.input, wide);
  if (next == nullptr)
    return norm_block(multiplier, scratch, wide, count, layer.down, state, layer.down_norm, nullptr, state, nullptr);
  const Rows rows = take_rows(scratch, count, hidden, next->qkv.input.outliers);
  norm_block(multiplier, scratch, wide, count, layer.down, state, layer.down_norm, &next->qkv.input, state, &rows);
  linear_block(multiplier, scratch, rows, count, next->qkv, qkv);
}

}  // namespace

void embed(const EmbedCall& call, int32_t threads) {
  struct Local {};
  const auto piece = [&](int64_t segment, int64_t, Local&) {
    Scratch scratch;
    float* x = scratch.take<float>(call.hidden);
    const int64_t begin = call.offsets[segment];
    for (int64_t token = begin; token < call.offsets[segment + 1]; ++token) {
      const int8_t* word = call.words + call.ids[token] * call.hidden;
      const Bf16* position = call.positions + (token - begin) * call.hidden;
      const Floats scale = splat(call.scale[call.ids[token]]);
      for (int64_t i = 0; i < call.hidden; i += kLanes)
        store(x + i, fma(to_floats(load_signed(word + i)), scale, load_bf16(position + i)));
      normalise_row(x, call.hidden, call.norm, nullptr, call.state + token * call.hidden);
    }
  };
  for_each_piece<Local>(threads, call.segments, 1, piece);
}

void layers(const LayersCall& call, int32_t threads) {
  const int64_t tokens = call.offsets[call.segments];
  if (call.count == 0 || tokens == 0) return;
  const int64_t hidden = call.layers[0]->qkv.inputs;
  const int64_t rows = rows_a_piece(threads, tokens, kBlockRows);
  const MoreParts more(threads);
  Scratch scratch(Scratch::kCall);
  Bf16* qkv = scratch.take<Bf16>(tokens * 3 * hidden);
  Bf16* contexts = scratch.take<Bf16>(tokens * hidden);

  const auto enter_rows = [&](int64_t begin, int64_t end, Multiplier& multiplier) {
    enter(multiplier, *call.layers[0], call.state + begin * hidden, end - begin, qkv + begin * 3 * hidden);
  };
  for_each_piece<Multiplier>(threads, tokens, rows, enter_rows);
  for (int64_t i = 0; i < call.count; ++i) {
    const Layer& layer = *call.layers[i];
    const Layer* next = i + 1 < call.count ? call.layers[i + 1] : nullptr;
    attention({qkv, contexts, call.offsets, call.segments, layer.heads, hidden / layer.heads, call.window}, threads);
    const auto pass_rows = [&](int64_t begin, int64_t end, Multiplier& multiplier) {
      pass(multiplier, layer, next, contexts + begin * hidden, end - begin, call.state + begin * hidden,
           qkv + begin * 3 * hidden);
    };
    for_each_piece<Multiplier>(threads, tokens, rows, pass_rows);
  }
}

}  // namespace octavo::OCTAVO_FORM
