// The kernel table of this instruction set.
#include "operations.h"

#define OCTAVO_JOIN_(a, b) a##b
#define OCTAVO_JOIN(a, b) OCTAVO_JOIN_(a, b)

namespace octavo {

const Kernels& OCTAVO_JOIN(kernels_, OCTAVO_ISA)() {
  using namespace OCTAVO_ISA;
  static const Kernels kernels = {
      attention, packed_bytes, pack, product, quantise, linear, linear_activate_quantise, linear_norm_quantise, layers,
  };
  return kernels;
}

}  // namespace octavo
