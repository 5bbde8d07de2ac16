// This instruction set's kernels, gathered.
#include "simd.h"

#define OCTAVO_JOIN_(a, b) a##b
#define OCTAVO_JOIN(a, b) OCTAVO_JOIN_(a, b)

namespace octavo {
namespace OCTAVO_ISA {
int64_t attention(const AttentionCall&, const Workers&);
}

const Kernels& OCTAVO_JOIN(kernels_, OCTAVO_ISA)() {
  static const Kernels kernels = {
      OCTAVO_ISA::attention,
  };
  return kernels;
}

}  // namespace octavo
