// The kernels of the current instruction set; kernels.h describes them.
#pragma once

#include "simd.h"

namespace octavo::OCTAVO_ISA {

int64_t attention(const AttentionCall& call, const Workers& workers);

int64_t packed_bytes(int64_t outputs, int64_t inputs);
void pack(const int8_t* weight, int64_t outputs, int64_t inputs, int32_t zero, int8_t* packed);
void product(const uint8_t* q, int64_t count, int64_t inputs, const int8_t* packed, int64_t outputs, int32_t* out,
             const Workers& workers);

void quantise(const Bf16* x, int64_t count, int64_t inputs, const Quantiser& to, const Rows& out,
              const Workers& workers);
void linear(const Rows& rows, int64_t count, const Linear& map, Bf16* out, const Workers& workers);
void linear_activate_quantise(const Rows& rows, int64_t count, const Linear& map, Activation activation,
                              const Quantiser& to, const Rows& out, const Workers& workers);
void linear_norm_quantise(const Rows& rows, int64_t count, const Linear& map, const Bf16* residual, const Norm& norm,
                          const Quantiser* to, Bf16* state, const Rows* out, const Workers& workers);

void layers(const LayersCall& call, const Workers& workers);

}  // namespace octavo::OCTAVO_ISA
