// The kernel table of this form.
#include "operations.h"

#define OCTAVO_JOIN_(a, b) a##b
#define OCTAVO_JOIN(a, b) OCTAVO_JOIN_(a, b)

namespace octavo {

const Kernels& OCTAVO_JOIN(kernels_, OCTAVO_FORM)() {
  using namespace OCTAVO_FORM;
  static constexpr Kernels kernels = {
      attention, packed_bytes, pack,   product, quantise, linear, linear_activate_quantise, linear_norm_quantise,
      layers,    embed,        begin_scores, end_scores,
  };
  return kernels;
}

}  // namespace octavo
