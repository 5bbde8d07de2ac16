// The native core as a Python module: tensors in, tensors out, checked once here so that kernels need not check.
#include <ATen/Parallel.h>
#include <torch/extension.h>

#include <string>

#include "kernels.h"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
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

// Linux hands out tiles on request, to the whole process (arch_prctl, ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA).
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
  throw std::invalid_argument("instruction set '" + isa + "' is not to be had");
}

void check(const Tensor& tensor, const char* name, at::ScalarType type, int64_t dimensions) {
  TORCH_CHECK(tensor.scalar_type() == type && tensor.dim() == dimensions && tensor.is_contiguous() &&
                  tensor.device().is_cpu(),
              name, " must be a contiguous CPU tensor of ", dimensions, " dimensions and type ", type);
}

template <class T>
T* pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// The kernels of one instruction set.
class Core {
 public:
  explicit Core(const std::string& isa) : kernels_(kernels_of(isa)) {}

  std::pair<Tensor, int64_t> attention(const Tensor& qkv, const Tensor& offsets, int64_t heads, int64_t window,
                                       double scale) const {
    check(qkv, "qkv", at::kBFloat16, 2);
    check(offsets, "offsets", at::kInt, 1);
    TORCH_CHECK(heads > 0 && qkv.size(1) % (3 * heads * 16) == 0, "a head's size must be a multiple of 16");
    TORCH_CHECK(window >= 0, "window must not be negative");
    check_offsets(offsets, qkv.size(0));
    const Tensor out = at::empty({qkv.size(0), qkv.size(1) / 3}, qkv.options());
    const AttentionCall call = {pointer<Bf16>(qkv),
                                pointer<Bf16>(out),
                                pointer<int32_t>(offsets),
                                offsets.size(0) - 1,
                                heads,
                                qkv.size(1) / 3 / heads,
                                window,
                                static_cast<float>(scale)};
    return {out, kernels_->attention(call, kWorkers)};
  }

 private:
  static void check_offsets(const Tensor& offsets, int64_t tokens) {
    const auto* p = pointer<int32_t>(offsets);
    const int64_t last = offsets.size(0) - 1;
    TORCH_CHECK(last >= 0 && p[0] == 0 && p[last] == tokens, "offsets must run from 0 to the number of tokens");
    for (int64_t i = 0; i < last; ++i) TORCH_CHECK(p[i] <= p[i + 1], "offsets must not fall");
  }

  const Kernels* kernels_;
};

}  // namespace
}  // namespace octavo

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  namespace py = pybind11;
  using octavo::Core;
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<Core>(module, "Core")
      .def(py::init<const std::string&>(), py::arg("isa"))
      .def("attention", &Core::attention, py::arg("qkv"), py::arg("offsets"), py::arg("heads"), py::arg("window"),
           py::arg("scale"), unlocked);
}
