// Which forms were built, and which of them can run here.
#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "kernels.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

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
const Kernels& kernels_avx512();
const Kernels& kernels_amx();
#ifdef OCTAVO_WITH_EMULATED
const Kernels& kernels_avx_vnni_evex();
const Kernels& kernels_amx_emulated();
#endif
#endif
#ifdef __aarch64__
const Kernels& kernels_neon();
#endif

namespace {

#ifdef __x86_64__

// Registers of cpuid for a leaf and subleaf, zero where the processor has none. `__builtin_cpu_supports` is no
// alternative: where LLVM's runtime library is replaced, as by zig, it may know no instruction set at all.
struct Cpuid {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  explicit Cpuid(uint32_t leaf, uint32_t subleaf = 0) { __get_cpuid_count(leaf, subleaf, &a, &b, &c, &d); }
};

bool has(uint32_t bits, std::initializer_list<int> wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [bits](int bit) { return bits >> bit & 1; });
}

// Whether the operating system saves these parts of the registers when it switches threads.
bool saves(std::initializer_list<int> parts) {
  if (!has(Cpuid(1).c, {27})) return false;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return has(low, parts);
}

bool has_avx2() { return saves({1, 2}) && has(Cpuid(1).c, {12}) && has(Cpuid(7).b, {5}); }  // FMA, AVX2

// F, DQ, CD, BW, VL; VNNI.
bool has_avx512() {
  return has_avx2() && saves({5, 6, 7}) && has(Cpuid(7).b, {16, 17, 28, 30, 31}) && has(Cpuid(7).c, {11});
}

bool has_avx_vnni() { return has_avx2() && Cpuid(7).a >= 1 && has(Cpuid(7, 1).a, {4}); }

// Linux grants tiles to the whole process on request (arch_prctl, ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA).
bool has_amx() {
#ifdef __linux__
  return has_avx512() && has(Cpuid(7).d, {24, 25}) && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
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
    {"avx512", has_avx512, kernels_avx512},
    {"avx_vnni", has_avx_vnni, kernels_avx_vnni},
    {"avx2", has_avx2, kernels_avx2},
#ifdef OCTAVO_WITH_EMULATED
    {"amx_emulated", has_avx512, kernels_amx_emulated},
    {"avx_vnni_evex", has_avx512, kernels_avx_vnni_evex},
#endif
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
