// Runs a golden case in one form, without Python: golden FORM CASE > STATE. Emulators run it.
//
// CASE is what tests/encoder/emulated.py writes: sizes, then tensors, each from a multiple of 64 bytes on.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels.h"

using namespace octavo;

namespace {

class Case {
 public:
  explicit Case(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) std::exit(2);
    std::fseek(file, 0, SEEK_END);
    const auto size = static_cast<size_t>(std::ftell(file));
    std::rewind(file);
    bytes_ = static_cast<char*>(std::aligned_alloc(64, (size + 63) / 64 * 64));
    if (std::fread(bytes_, 1, size, file) != size) std::exit(2);
    std::fclose(file);
  }

  template <class T>
  T* take(int64_t count) {
    auto* at = reinterpret_cast<T*>(bytes_ + at_);
    at_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return at;
  }

 private:
  char* bytes_;
  size_t at_ = 0;
};

Norm norm_of(Case& from, int64_t size) {
  const float* weight = from.take<float>(size);
  return {weight, from.take<float>(size), 1e-12f};
}

Linear linear_of(Case& from, const Kernels& kernels, int64_t outputs, int64_t inputs, int64_t outliers, int32_t zero) {
  const int8_t* weight = from.take<int8_t>(outputs * inputs);
  auto* packed = static_cast<int8_t*>(std::malloc(static_cast<size_t>(kernels.packed_bytes(outputs, inputs))));
  kernels.pack(weight, outputs, inputs, zero, packed);
  const float* scale = from.take<float>(outputs);
  const float* bias = from.take<float>(outputs);
  const int32_t* columns = from.take<int32_t>(outliers);
  const Bf16* outlier_weight = from.take<Bf16>(outliers * outputs);
  const float* factor = from.take<float>(inputs);
  return {inputs, outputs, packed, scale, bias, outlier_weight, {columns, outliers, factor, zero}};
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const Kernels* kernels = octavo_kernels(arguments[1]);
  if (kernels == nullptr) return 3;
  Case from(arguments[2]);
  const int64_t* sizes = from.take<int64_t>(11);
  const int64_t hidden = sizes[0], heads = sizes[1], wide = sizes[2], layer_count = sizes[3], vocabulary = sizes[4];
  const int64_t positions = sizes[5], segments = sizes[6], window = sizes[7], activation = sizes[8];
  const int64_t outliers = sizes[9], low_zero = sizes[10];
  const int32_t* offsets = from.take<int32_t>(segments + 1);
  const int64_t tokens = offsets[segments];
  const int32_t* ids = from.take<int32_t>(tokens);
  std::vector<Bf16> state(static_cast<size_t>(tokens * hidden));
  EmbedCall embed{};
  embed.words = from.take<int8_t>(vocabulary * hidden);
  embed.scale = from.take<float>(vocabulary);
  embed.positions = from.take<Bf16>(positions * hidden);
  embed.norm = norm_of(from, hidden);
  embed.hidden = hidden;
  embed.ids = ids;
  embed.state = state.data();
  embed.offsets = offsets;
  embed.segments = segments;
  kernels->embed(embed, 2);
  std::vector<Layer> layers(static_cast<size_t>(layer_count));
  std::vector<const Layer*> pointers;
  for (Layer& layer : layers) {
    layer.heads = heads;
    layer.activation = static_cast<Activation>(activation);
    layer.qkv = linear_of(from, *kernels, 3 * hidden, hidden, outliers, 128);
    layer.mix = linear_of(from, *kernels, hidden, hidden, outliers, 128);
    layer.mix_norm = norm_of(from, hidden);
    layer.up = linear_of(from, *kernels, wide, hidden, outliers, 128);
    layer.down = linear_of(from, *kernels, hidden, wide, outliers, static_cast<int32_t>(low_zero));
    layer.down_norm = norm_of(from, hidden);
    pointers.push_back(&layer);
  }
  kernels->layers({pointers.data(), layer_count, state.data(), offsets, segments, window}, 2);
  return std::fwrite(state.data(), sizeof(Bf16), state.size(), stdout) == state.size() ? 0 : 2;
}
