// The kernels of the current form; kernels.h describes them.
#pragma once

#include "vectors.h"

namespace octavo::OCTAVO_FORM {

int64_t attention(const AttentionCall& call, int32_t threads);

int64_t packed_bytes(int64_t outputs, int64_t inputs);
void pack(const int8_t* weight, int64_t outputs, int64_t inputs, int32_t zero, int8_t* packed);
void product(const uint8_t* q, int64_t count, int64_t inputs, const int8_t* packed, int64_t outputs, int32_t* out,
             int32_t threads);

void quantise(const Bf16* x, int64_t count, int64_t inputs, const Quantiser& to, const Rows& out, int32_t threads);
void linear(const Rows& rows, int64_t count, const Linear& map, Bf16* out, int32_t threads);
void linear_activate_quantise(const Rows& rows, int64_t count, const Linear& map, Activation activation,
                              const Quantiser& to, const Rows& out, int32_t threads);
void linear_norm_quantise(const Rows& rows, int64_t count, const Linear& map, const Bf16* residual, const Norm& norm,
                          const Quantiser* to, Bf16* state, const Rows* out, int32_t threads);

void layers(const LayersCall& call, int32_t threads);
void embed(const EmbedCall& call, int32_t threads);
void* begin_scores(const ScoresCall& call, int32_t threads);
void end_scores(void* scoring);

}  // namespace octavo::OCTAVO_FORM
