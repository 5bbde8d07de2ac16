// Which forms were built, and which of them can run here.
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace octavo {

const Kernels& kernels_generic();
#ifdef __x86_64__
const Kernels& kernels_avx2();
const Kernels& kernels_avx_vnni();
const Kernels& kernels_avx_vnni_evex();
const Kernels& kernels_avx512();
const Kernels& kernels_amx();
const Kernels& kernels_amx_emulated();
#endif
#ifdef __aarch64__
const Kernels& kernels_neon();
#endif

namespace {

#ifdef __x86_64__

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && has_avx2();
}

// Registers of cpuid for a leaf and subleaf: what the compilers' __builtin_cpu_supports does not know yet.
struct Cpuid {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  Cpuid(uint32_t leaf, uint32_t subleaf) {
    asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(subleaf));
  }
};

bool has_avx_vnni() { return has_avx2() && Cpuid(0, 0).a >= 7 && Cpuid(7, 0).a >= 1 && (Cpuid(7, 1).a >> 4 & 1); }

// Linux grants tiles to the whole process on request (arch_prctl, ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA).
bool has_amx() {
#ifdef __linux__
  const uint32_t features = Cpuid(0, 0).a >= 7 ? Cpuid(7, 0).d : 0;
  return has_avx512() && (features >> 24 & 1) && (features >> 25 & 1) && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

#endif

#ifdef __aarch64__

bool has_neon() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
  return true;  // every 64-bit processor of theirs that runs macOS has dot products
#else
  return false;
#endif
}

#endif

bool always() { return true; }

struct Form {
  const char* name;
  bool (*runs_here)();
  const Kernels& (*kernels)();
};

constexpr Form kForms[] = {
#ifdef __x86_64__
    {"amx", has_amx, kernels_amx},
    {"amx_emulated", has_avx512, kernels_amx_emulated},
    {"avx512", has_avx512, kernels_avx512},
    {"avx_vnni", has_avx_vnni, kernels_avx_vnni},
    {"avx_vnni_evex", has_avx512, kernels_avx_vnni_evex},
    {"avx2", has_avx2, kernels_avx2},
#endif
#ifdef __aarch64__
    {"neon", has_neon, kernels_neon},
#endif
    {"generic", always, kernels_generic},
};

}  // namespace
}  // namespace octavo

__attribute__((visibility("default"))) const octavo::Kernels* octavo_kernels(const char* form) {
  for (const auto& each : octavo::kForms)
    if (std::strcmp(each.name, form) == 0) return each.runs_here() ? &each.kernels() : nullptr;
  return nullptr;
}
