// The native core as a Python module. Tensors are checked here, so kernels need not check them.
//
// Names are those of encoder.ops; a Linear or Layer here keeps the tensors alive that kernels point into.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifndef INTRA_OP_PARALLEL
#error "compile with -fopenmp: without it ATen's parallel_for is one thread, and says nothing"
#endif

namespace octavo {
namespace {

using at::Tensor;

const Workers kWorkers = {
    [] { return at::get_num_threads(); },
    [](int workers, void (*body)(void*), void* context) {
      at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t worker = begin; worker < end; ++worker) body(context);
      });
    },
};

// Linux grants tiles to the whole process on request (arch_prctl, ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA).
bool request_tiles() {
#ifdef __linux__
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

const Kernels* kernels_of(const std::string& isa) {
  if (isa == "vnni") return &kernels_vnni();
  if (isa == "bf16") return &kernels_bf16();
  if (isa == "amx" && request_tiles()) return &kernels_amx();
  if (isa == "amx_emulated") return &kernels_amx_emulated();
  throw std::invalid_argument("instruction set '" + isa + "' is unavailable");
}

// --- Checks ---------------------------------------------------------------------------------------------------------

Tensor check(const Tensor& tensor, const char* name, at::ScalarType type, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == type, name,
              " must be a contiguous CPU tensor of ", type);
  TORCH_CHECK(tensor.sizes() == shape, name, " has shape ", tensor.sizes(), ", not ", shape);
  return tensor;
}

template <class T>
T* pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

std::vector<int32_t> offsets_of(const std::vector<int64_t>& lengths, int64_t tokens) {
  std::vector<int32_t> offsets = {0};
  for (const int64_t length : lengths) {
    TORCH_CHECK(length >= 0, "a segment's length must not be negative");
    offsets.push_back(static_cast<int32_t>(offsets.back() + length));
  }
  TORCH_CHECK(offsets.back() == tokens, "lengths sum to ", offsets.back(), " of ", tokens, " tokens");
  return offsets;
}

void check_window(int64_t window) { TORCH_CHECK(window >= 0, "window must not be negative"); }

Activation activation_of(const std::string& name) {
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  TORCH_CHECK(name == "relu", "activation '", name, "' is not supported");
  return Activation::kRelu;
}

// --- Owners of tensors ----------------------------------------------------------------------------------------------

struct QuantiserTensors {
  Tensor columns, factor;
  Quantiser plain;

  QuantiserTensors(const Tensor& columns, const Tensor& factor, int64_t zero)
      : columns(check(columns, "columns", at::kInt, {columns.numel()})),
        factor(check(factor, "factor", at::kFloat, {factor.numel()})),
        plain{pointer<int32_t>(columns), columns.numel(), pointer<float>(factor), static_cast<int32_t>(zero)} {
    TORCH_CHECK(zero >= 1 && zero <= 254, "zero must be 1 to 254");
    TORCH_CHECK(factor.numel() % 32 == 0, "rows must have a multiple of 32 columns");
    for (int64_t o = 0; o < plain.outliers; ++o)
      TORCH_CHECK(plain.columns[o] >= 0 && plain.columns[o] < factor.numel(), "an outlier column is out of range");
  }
  int64_t inputs() const { return factor.numel(); }
};

struct LinearTensors {
  QuantiserTensors input;
  Tensor packed, scale, bias, outlier_weight;
  Linear plain;

  LinearTensors(const Tensor& packed, const Tensor& scale, const Tensor& bias, const Tensor& outlier_weight,
                QuantiserTensors input)
      : input(std::move(input)),
        packed(packed),
        scale(check(scale, "scale", at::kFloat, {scale.numel()})),
        bias(check(bias, "bias", at::kFloat, {scale.numel()})),
        outlier_weight(
            check(outlier_weight, "outlier_weight", at::kBFloat16, {this->input.plain.outliers, scale.numel()})) {
    const int64_t outputs = scale.numel();
    TORCH_CHECK(outputs % 32 == 0, "outputs must be a multiple of 32");
    // All instruction sets use the same packed layout.
    check(packed, "packed", at::kChar, {kernels_vnni().packed_bytes(outputs, this->input.inputs())});
    plain = {this->input.inputs(),    outputs,
             pointer<int8_t>(packed), pointer<float>(scale),
             pointer<float>(bias),    pointer<Bf16>(outlier_weight),
             this->input.plain};
  }
};

struct NormTensors {
  Tensor weight, bias;
  Norm plain;

  NormTensors(const Tensor& weight, const Tensor& bias, double eps)
      : weight(check(weight, "norm's weight", at::kFloat, {weight.numel()})),
        bias(check(bias, "norm's bias", at::kFloat, {weight.numel()})),
        plain{pointer<float>(weight), pointer<float>(bias), static_cast<float>(eps)} {}
};

struct LayerTensors {
  LinearTensors qkv, mix, up, down;
  NormTensors mix_norm, down_norm;
  Layer plain;

  LayerTensors(int64_t heads, const std::string& activation, LinearTensors qkv, LinearTensors mix, NormTensors mix_norm,
               LinearTensors up, LinearTensors down, NormTensors down_norm)
      : qkv(std::move(qkv)),
        mix(std::move(mix)),
        up(std::move(up)),
        down(std::move(down)),
        mix_norm(std::move(mix_norm)),
        down_norm(std::move(down_norm)),
        plain{heads,          activation_of(activation), this->qkv.plain,      this->mix.plain, this->mix_norm.plain,
              this->up.plain, this->down.plain,          this->down_norm.plain} {
    const int64_t hidden = plain.qkv.inputs;
    TORCH_CHECK(heads > 0 && hidden % (16 * heads) == 0, "a head's size must be a multiple of 16");
    TORCH_CHECK(plain.qkv.outputs == 3 * hidden && plain.mix.inputs == hidden && plain.mix.outputs == hidden &&
                    plain.up.inputs == hidden && plain.up.outputs == plain.down.inputs &&
                    plain.down.outputs == hidden && this->mix_norm.weight.numel() == hidden &&
                    this->down_norm.weight.numel() == hidden,
                "the layer's parts do not fit each other");
  }
};

struct RowsTensors {
  Tensor q, scale, outliers;
  Rows plain;

  RowsTensors(const Tensor& q, const Tensor& scale, const Tensor& outliers, const Quantiser& to, int64_t inputs)
      : q(check(q, "q", at::kByte, {q.size(0), inputs})),
        scale(check(scale, "scale", at::kFloat, {q.size(0)})),
        outliers(check(outliers, "outliers", at::kBFloat16, {q.size(0), to.outliers})),
        plain{pointer<uint8_t>(q), pointer<float>(scale), pointer<Bf16>(outliers)} {}

  static RowsTensors make(int64_t count, const QuantiserTensors& to) {
    return {at::empty({count, to.inputs()}, at::kByte), at::empty({count}, at::kFloat),
            at::empty({count, to.plain.outliers}, at::kBFloat16), to.plain, to.inputs()};
  }
  int64_t count() const { return q.size(0); }
  std::tuple<Tensor, Tensor, Tensor> tensors() const { return {q, scale, outliers}; }
};

// --- The kernels of one instruction set -----------------------------------------------------------------------------

using Triple = std::tuple<Tensor, Tensor, Tensor>;

class Core {
 public:
  explicit Core(const std::string& isa) : kernels_(kernels_of(isa)) {}

  std::pair<Tensor, int64_t> attention(const Tensor& qkv, const std::vector<int64_t>& lengths, int64_t heads,
                                       int64_t window) const {
    check(qkv, "qkv", at::kBFloat16, {qkv.size(0), qkv.size(-1)});
    TORCH_CHECK(heads > 0 && qkv.size(1) % (3 * heads * 16) == 0, "a head's size must be a multiple of 16");
    check_window(window);
    const auto offsets = offsets_of(lengths, qkv.size(0));
    const int64_t hidden = qkv.size(1) / 3;
    const Tensor out = at::empty({qkv.size(0), hidden}, qkv.options());
    const auto segments = static_cast<int64_t>(lengths.size());
    const int64_t work = kernels_->attention(
        {pointer<Bf16>(qkv), pointer<Bf16>(out), offsets.data(), segments, heads, hidden / heads, window}, kWorkers);
    return {out, work};
  }

  Tensor pack(const Tensor& weight, int64_t zero) const {
    check(weight, "weight", at::kChar, {weight.size(0), weight.size(-1)});
    TORCH_CHECK(weight.size(0) % 32 == 0 && weight.size(1) % 32 == 0, "a weight's sizes must be multiples of 32");
    const int64_t bytes = kernels_->packed_bytes(weight.size(0), weight.size(1));
    const Tensor packed = at::empty({bytes}, weight.options());
    kernels_->pack(pointer<int8_t>(weight), weight.size(0), weight.size(1), static_cast<int32_t>(zero),
                   pointer<int8_t>(packed));
    return packed;
  }

  Tensor product(const Tensor& q, const Tensor& packed) const {
    const int64_t inputs = q.size(-1);
    check(q, "q", at::kByte, {q.size(0), inputs});
    const int64_t outputs = packed.numel() / kernels_->packed_bytes(32, inputs) * 32;
    check(packed, "packed", at::kChar, {kernels_->packed_bytes(outputs, inputs)});
    const Tensor out = at::empty({q.size(0), outputs}, at::kInt);
    kernels_->product(pointer<uint8_t>(q), q.size(0), inputs, pointer<int8_t>(packed), outputs, pointer<int32_t>(out),
                      kWorkers);
    return out;
  }

  Triple quantise(const Tensor& x, const QuantiserTensors& to) const {
    check(x, "x", at::kBFloat16, {x.size(0), to.inputs()});
    const auto rows = RowsTensors::make(x.size(0), to);
    kernels_->quantise(pointer<Bf16>(x), x.size(0), to.inputs(), to.plain, rows.plain, kWorkers);
    return rows.tensors();
  }

  Tensor linear(const Triple& rows, const LinearTensors& map) const {
    const auto in = taken(rows, map);
    const Tensor out = at::empty({in.count(), map.plain.outputs}, at::kBFloat16);
    kernels_->linear(in.plain, in.count(), map.plain, pointer<Bf16>(out), kWorkers);
    return out;
  }

  Triple linear_activate_quantise(const Triple& rows, const LinearTensors& map, const std::string& activation,
                                  const QuantiserTensors& to) const {
    const auto in = taken(rows, map);
    TORCH_CHECK(to.inputs() == map.plain.outputs, "the quantiser is for rows of another size");
    const auto out = RowsTensors::make(in.count(), to);
    kernels_->linear_activate_quantise(in.plain, in.count(), map.plain, activation_of(activation), to.plain, out.plain,
                                       kWorkers);
    return out.tensors();
  }

  std::pair<Tensor, std::optional<Triple>> linear_norm_quantise(const Triple& rows, const LinearTensors& map,
                                                                const Tensor& residual, const NormTensors& norm,
                                                                const QuantiserTensors* to) const {
    const auto in = taken(rows, map);
    check(residual, "residual", at::kBFloat16, {in.count(), map.plain.outputs});
    TORCH_CHECK(norm.weight.numel() == map.plain.outputs, "the norm is for rows of another size");
    const Tensor state = at::empty_like(residual);
    if (to == nullptr) {
      kernels_->linear_norm_quantise(in.plain, in.count(), map.plain, pointer<Bf16>(residual), norm.plain, nullptr,
                                     pointer<Bf16>(state), nullptr, kWorkers);
      return {state, std::nullopt};
    }
    TORCH_CHECK(to->inputs() == map.plain.outputs, "the quantiser is for rows of another size");
    const auto out = RowsTensors::make(in.count(), *to);
    kernels_->linear_norm_quantise(in.plain, in.count(), map.plain, pointer<Bf16>(residual), norm.plain, &to->plain,
                                   pointer<Bf16>(state), &out.plain, kWorkers);
    return {state, out.tensors()};
  }

  Tensor layers(const std::vector<const LayerTensors*>& layers, const Tensor& state,
                const std::vector<int64_t>& lengths, int64_t window) const {
    check_window(window);
    check(state, "state", at::kBFloat16, {state.size(0), state.size(-1)});
    std::vector<const Layer*> plain;
    for (const auto* layer : layers) {
      TORCH_CHECK(layer->plain.qkv.inputs == state.size(1), "a layer is for states of another size");
      plain.push_back(&layer->plain);
    }
    const auto offsets = offsets_of(lengths, state.size(0));
    const Tensor out = state.clone();
    kernels_->layers({plain.data(), static_cast<int64_t>(plain.size()), pointer<Bf16>(out), offsets.data(),
                      static_cast<int64_t>(lengths.size()), window},
                     kWorkers);
    return out;
  }

 private:
  static RowsTensors taken(const Triple& rows, const LinearTensors& map) {
    const auto& [q, scale, outliers] = rows;
    return {q, scale, outliers, map.plain.input, map.plain.inputs};
  }

  const Kernels* kernels_;
};

}  // namespace
}  // namespace octavo

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  namespace py = pybind11;
  using namespace octavo;
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<QuantiserTensors>(module, "Quantiser").def(py::init<const Tensor&, const Tensor&, int64_t>());
  py::class_<LinearTensors>(module, "Linear")
      .def(py::init<const Tensor&, const Tensor&, const Tensor&, const Tensor&, QuantiserTensors>());
  py::class_<NormTensors>(module, "Norm").def(py::init<const Tensor&, const Tensor&, double>());
  py::class_<LayerTensors>(module, "Layer")
      .def(py::init<int64_t, const std::string&, LinearTensors, LinearTensors, NormTensors, LinearTensors,
                    LinearTensors, NormTensors>());
  py::class_<Core>(module, "Core")
      .def(py::init<const std::string&>())
      .def("attention", &Core::attention, unlocked)
      .def("pack", &Core::pack, unlocked)
      .def("product", &Core::product, unlocked)
      .def("quantise", &Core::quantise, unlocked)
      .def("linear", &Core::linear, unlocked)
      .def("linear_activate_quantise", &Core::linear_activate_quantise, unlocked)
      .def("linear_norm_quantise", &Core::linear_norm_quantise, unlocked)
      .def("layers", &Core::layers, unlocked);
}
