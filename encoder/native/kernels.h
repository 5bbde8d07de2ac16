// The native core's interface: one table of kernels for each instruction set.
//
// Every kernel file is compiled once for each instruction set, in a separate namespace (see simd.h), and fills its
// entries in that set's table. This header needs only baseline x86-64, so the bindings can include it.
#pragma once

#include <cstdint>

namespace octavo {

using Bf16 = uint16_t;  // the bits of a bfloat16

// Calls body(context, worker) once for each worker in [0, workers()), in parallel, and returns when all are done. The
// bindings implement it with ATen's thread pool, so that torch.set_num_threads applies here too.
struct Workers {
  int (*count)();
  void (*run)(int workers, void (*body)(void* context), void* context);
};

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

enum class Activation { kGelu, kGeluTanh, kRelu };

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

struct Kernels {
  // Returns the number of scores computed (query-key pairs, including padding), a measure of work independent of time.
  int64_t (*attention)(const AttentionCall&, const Workers&);

  // packed_bytes: bytes that `pack` writes. pack: converts row-major weights (outputs, inputs) to the order of
  // products.
  int64_t (*packed_bytes)(int64_t outputs, int64_t inputs);
  void (*pack)(const int8_t* weight, int64_t outputs, int64_t inputs, int32_t zero, int8_t* packed);

  // (count, inputs) bytes times packed weights, minus the zero point's part: (count, outputs), exact.
  void (*product)(const uint8_t* q, int64_t count, int64_t inputs, const int8_t* packed, int64_t outputs, int32_t* out,
                  const Workers&);

  // The operations of encoder.ops, over `count` rows each.
  void (*quantise)(const Bf16* x, int64_t count, int64_t inputs, const Quantiser&, const Rows&, const Workers&);
  void (*linear)(const Rows&, int64_t count, const Linear&, Bf16* out, const Workers&);
  void (*linear_activate_quantise)(const Rows&, int64_t count, const Linear&, Activation, const Quantiser&,
                                   const Rows& out, const Workers&);
  // If `to` is null, rows are not computed.
  void (*linear_norm_quantise)(const Rows&, int64_t count, const Linear&, const Bf16* residual, const Norm&,
                               const Quantiser* to, Bf16* state, const Rows* out, const Workers&);

  void (*layers)(const LayersCall&, const Workers&);
};

const Kernels& kernels_vnni();          // AVX-512 with VNNI
const Kernels& kernels_bf16();          // and with BF16
const Kernels& kernels_amx();           // and with AMX tiles
const Kernels& kernels_amx_emulated();  // the AMX code with emulated tiles, for tests on machines without AMX

}  // namespace octavo
