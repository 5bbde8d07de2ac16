// The native core's interface, in plain C: one table of kernels for each form. encoder/native/core.py mirrors it.
//
// Every kernel file is compiled once for each form, in a namespace of its own (see vectors.h), and fills that form's
// table. Kernels do not check their arguments; core.py does. A reference is a pointer here.
#pragma once

#include <cstdint>

namespace octavo {

using Bf16 = uint16_t;  // the bits of a bfloat16

// Windowed attention over segments laid end to end; see attention.cpp.
struct AttentionCall {
  const Bf16* qkv;         // (tokens, 3 * heads * head_size): queries, keys and values, each split into heads
  Bf16* out;               // (tokens, heads * head_size)
  const int32_t* offsets;  // (segments + 1): the start of each segment and the end of the last
  int64_t segments;
  int64_t heads;
  int64_t head_size;  // a multiple of 16
  int64_t window;     // half width in tokens; 0: full attention
};

// How rows are quantised to 8 bits; encoder.ops.Quantiser.
struct Quantiser {
  const int32_t* columns;  // (outliers): also kept in bfloat16
  int64_t outliers;
  const float* factor;  // (inputs): 0 at outlier columns
  int32_t zero;
};

// Rows in 8 bits; encoder.ops.Rows.
struct Rows {
  uint8_t* q;      // (count, inputs)
  float* scale;    // (count)
  Bf16* outliers;  // (count, outliers)
};

// A linear map in 8 bits; encoder.ops.Linear8.
struct Linear {
  int64_t inputs;   // a multiple of 32
  int64_t outputs;  // a multiple of 32
  const int8_t* packed;
  const float* scale;          // (outputs)
  const float* bias;           // (outputs)
  const Bf16* outlier_weight;  // (input.outliers, outputs)
  Quantiser input;
};

struct Norm {
  const float* weight;
  const float* bias;
  float eps;
};

enum class Activation : int32_t { kGelu, kGeluTanh, kRelu };

// One post-norm layer (Devlin et al., 2019).
struct Layer {
  int64_t heads;
  Activation activation;
  Linear qkv;
  Linear mix;
  Norm mix_norm;
  Linear up;
  Linear down;
  Norm down_norm;
};

// Consecutive layers, over segments laid end to end.
struct LayersCall {
  const Layer* const* layers;
  int64_t count;
  Bf16* state;  // (tokens, hidden): input of the first layer, replaced by the output of the last
  const int32_t* offsets;
  int64_t segments;
  int64_t window;
};

// Embeddings of segments laid end to end: the norm of word · scale + position.
struct EmbedCall {
  const int8_t* words;     // (vocabulary, hidden)
  const float* scale;      // (vocabulary)
  const Bf16* positions;   // (max_tokens, hidden)
  Norm norm;
  int64_t hidden;          // a multiple of 32
  const int32_t* ids;      // (tokens)
  Bf16* state;             // (tokens, hidden)
  const int32_t* offsets;
  int64_t segments;
};

// Scores of a trained head: rows times weights, plus biases, in float32; see scores.cpp.
struct ScoresCall {
  const Bf16* x;        // (rows, inputs)
  int64_t rows;
  int64_t inputs;       // a multiple of 16
  const float* weight;  // for each sixteen outputs, (inputs, 16); zeros behind the last output
  const float* bias;    // likewise in whole sixteens
  int64_t outputs;
  float* out;           // (rows, outputs)
};

// `threads` is how many threads may work on a call, the caller's among them.
struct Kernels {
  // Returns the number of scores computed (query-key pairs, including padding), a measure of work independent of time.
  int64_t (*attention)(const AttentionCall&, int32_t threads);

  // packed_bytes: bytes that `pack` writes. pack: converts row-major weights (outputs, inputs) to the order of
  // products, the same in all forms.
  int64_t (*packed_bytes)(int64_t outputs, int64_t inputs);
  void (*pack)(const int8_t* weight, int64_t outputs, int64_t inputs, int32_t zero, int8_t* packed);

  // (count, inputs) bytes times packed weights, minus the zero point's part: (count, outputs), exact.
  void (*product)(const uint8_t* q, int64_t count, int64_t inputs, const int8_t* packed, int64_t outputs, int32_t* out,
                  int32_t threads);

  // The operations of encoder.ops, over `count` rows each.
  void (*quantise)(const Bf16* x, int64_t count, int64_t inputs, const Quantiser&, const Rows&, int32_t threads);
  void (*linear)(const Rows&, int64_t count, const Linear&, Bf16* out, int32_t threads);
  void (*linear_activate_quantise)(const Rows&, int64_t count, const Linear&, Activation, const Quantiser&,
                                   const Rows& out, int32_t threads);
  // If `to` is null, rows are not computed.
  void (*linear_norm_quantise)(const Rows&, int64_t count, const Linear&, const Bf16* residual, const Norm&,
                               const Quantiser* to, Bf16* state, const Rows* out, int32_t threads);

  void (*layers)(const LayersCall&, int32_t threads);
  void (*embed)(const EmbedCall&, int32_t threads);
  // Scores may be made by another thread, until `end_scores`, which must follow, of what `begin_scores` returns.
  void* (*begin_scores)(const ScoresCall&, int32_t threads);
  void (*end_scores)(void* scoring);
};

}  // namespace octavo

// The table of a form, or null if this processor, operating system or build does not have it.
extern "C" const octavo::Kernels* octavo_kernels(const char* form);
