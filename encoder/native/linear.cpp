// Packs weights, and runs the operations around a linear map over any number of rows.

#include "blocks.h"
#include "operations.h"
#include "workers.h"

namespace octavo::OCTAVO_FORM {

int64_t packed_bytes(int64_t outputs, int64_t inputs) {
  return outputs / kPanel * panel_words(inputs) * static_cast<int64_t>(sizeof(Word));
}

void pack(const int8_t* weight, int64_t outputs, int64_t inputs, int32_t zero, int8_t* packed) {
  const int64_t steps = inputs / 4;
  for (int64_t output = 0; output < outputs; ++output) {
    int8_t* panel = packed + output / kPanel * panel_words(inputs) * 4;
    int32_t sum = 0;  // of at most 65,536 inputs
    for (int64_t input = 0; input < inputs; ++input) {
      const int8_t w = weight[output * inputs + input];
      panel[(input / 4 * kPanel + output % kPanel) * 4 + input % 4] = w;
      sum += w;
    }
    const int32_t begin = -zero * sum;
    __builtin_memcpy(panel + (steps * kPanel + output % kPanel) * 4, &begin, sizeof begin);
  }
}

void product(const uint8_t* q, int64_t count, int64_t inputs, const int8_t* packed, int64_t outputs, int32_t* out,
             int32_t threads) {
  const auto piece = [&](int64_t begin, int64_t end, Multiplier& multiplier) {
    Scratch scratch;
    int32_t* sums = scratch.take<int32_t>((end - begin) * kPanel);
    for (int64_t output = 0; output < outputs; output += kPanel) {
      multiply_panel(multiplier, q + begin * inputs, end - begin, inputs, packed, output, sums);
      for (int64_t r = 0; r < end - begin; ++r)
        __builtin_memcpy(out + (begin + r) * outputs + output, sums + r * kPanel, kPanel * sizeof(int32_t));
    }
  };
  for_each_piece<Multiplier>(threads, count, rows_a_piece(threads, count, kBlockRows), piece);
}

void quantise(const Bf16* x, int64_t count, int64_t inputs, const Quantiser& to, const Rows& out,
              int32_t threads) {
  struct Local {};
  const auto piece = [&](int64_t begin, int64_t end, Local&) {
    Scratch scratch;
    quantise_block(scratch, x + begin * inputs, end - begin, inputs, to, advance(out, begin, inputs, to.outliers));
  };
  for_each_piece<Local>(threads, count, rows_a_piece(threads, count, kBlockRows), piece);
}

void linear(const Rows& rows, int64_t count, const Linear& map, Bf16* out, int32_t threads) {
  const auto piece = [&](int64_t begin, int64_t end, Multiplier& multiplier) {
    Scratch scratch;
    const Rows block = advance(rows, begin, map.inputs, map.input.outliers);
    linear_block(multiplier, scratch, block, end - begin, map, out + begin * map.outputs);
  };
  for_each_piece<Multiplier>(threads, count, rows_a_piece(threads, count, kBlockRows), piece);
}

void linear_activate_quantise(const Rows& rows, int64_t count, const Linear& map, Activation activation,
                              const Quantiser& to, const Rows& out, int32_t threads) {
  const auto piece = [&](int64_t begin, int64_t end, Multiplier& multiplier) {
    Scratch scratch;
    const Rows block = advance(rows, begin, map.inputs, map.input.outliers);
    activate_block(multiplier, scratch, block, end - begin, map, activation, to,
                   advance(out, begin, map.outputs, to.outliers));
  };
  for_each_piece<Multiplier>(threads, count, rows_a_piece(threads, count, kBlockRows), piece);
}

void linear_norm_quantise(const Rows& rows, int64_t count, const Linear& map, const Bf16* residual, const Norm& norm,
                          const Quantiser* to, Bf16* state, const Rows* out, int32_t threads) {
  const auto piece = [&](int64_t begin, int64_t end, Multiplier& multiplier) {
    Scratch scratch;
    const Rows block = advance(rows, begin, map.inputs, map.input.outliers);
    const Rows quantised = to ? advance(*out, begin, map.outputs, to->outliers) : Rows{};
    norm_block(multiplier, scratch, block, end - begin, map, residual + begin * map.outputs, norm, to,
               state + begin * map.outputs, &quantised);
  };
  for_each_piece<Multiplier>(threads, count, rows_a_piece(threads, count, kBlockRows), piece);
}

}  // namespace octavo::OCTAVO_FORM
