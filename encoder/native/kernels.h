// The native core as the rest of the program sees it: one table of kernels for each instruction set.
//
// Every kernel file is compiled once for each instruction set, in a namespace of its own (see simd.h), and fills its
// entries of that set's table. Nothing here needs more than a baseline x86-64, so the binding may include it.
#pragma once

#include <cstdint>

namespace octavo {

using Bf16 = uint16_t;  // the bits of a bfloat16

// Calls body(context, worker) once for each worker in [0, workers()), at the same time, and returns when all are done.
// The binding lends ATen's thread pool through it, so that torch.set_num_threads holds here too.
struct Workers {
  int (*count)();
  void (*run)(int workers, void (*body)(void* context), void* context);
};

// Windowed attention over segments laid end to end; see attention.cpp.
struct AttentionCall {
  const Bf16* qkv;         // (tokens, 3 * heads * head_size): queries, keys and values, each head after head
  Bf16* out;               // (tokens, heads * head_size)
  const int32_t* offsets;  // (segments + 1): where each segment begins, and where the last one ends
  int64_t segments;
  int64_t heads;
  int64_t head_size;  // a multiple of 16
  int64_t window;     // half width in tokens; 0: none, every token sees every other
  float scale;        // of the scores, before softmax
};

struct Kernels {
  // Returns the number of scores computed (query and key pairs, those of padding included): work, apart from time.
  int64_t (*attention)(const AttentionCall&, const Workers&);
};

const Kernels& kernels_vnni();           // AVX-512 with VNNI
const Kernels& kernels_bf16();           // and with BF16
const Kernels& kernels_amx();            // and with AMX tiles
const Kernels& kernels_amx_emulated();   // the AMX code over emulated tiles: for tests on machines without them

}  // namespace octavo
