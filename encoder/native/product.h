// The native core's only matrix product: C = A · B in bytes, for scores, weighted values and linear maps.
//
// Numbers of A are unsigned bytes, numbers of B signed; four of them along the inner dimension are a word, one step. A
// is row-major. B is packed in panels of 32 columns: for each step, a panel has the words of its 32 columns. C is
// row-major, 32-bit and exact. If rows of A are bytes around a zero point, the 32 words after a panel's steps are the
// initial values of its sums, which cancel the zero point.
#pragma once

#include <cstdlib>

#include "kernels.h"

#ifndef OCTAVO_FORM
#error "compile with -DOCTAVO_FORM=a form of vectors.h"
#endif

#define OCTAVO_INLINE inline __attribute__((always_inline))

// Before a loop over registers. GCC unrolls it by itself; Clang may keep the registers' arrays in memory.
#ifdef __clang__
#define OCTAVO_UNROLL _Pragma("clang loop unroll(full)")
#else
#define OCTAVO_UNROLL
#endif

namespace octavo::OCTAVO_FORM {

constexpr int64_t kLanes = 16;
constexpr int64_t kPanel = 32;  // columns
using Word = uint32_t;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Initial values of sums: zero, or the 32 words after a panel's steps. Only AMX uses C, which tiles leave to registers.
enum class Begin { kZero, kPanelRow, kC };

struct Product {
  const Word* a;
  int64_t a_stride;  // words from row to row
  int64_t rows;
  const Word* panels;
  int64_t panel_stride;  // words from panel to panel
  int64_t vectors;       // columns / 16; if odd, the second half of the last panel is omitted
  int64_t steps;
  Word* c;
  int64_t c_stride;
};

// Memory that grows, for numbers in a wider type. Contents are lost when it grows.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(numbers_); }

  T* reserve(int64_t size) {
    if (size > size_) {
      std::free(numbers_);
      numbers_ = static_cast<T*>(std::malloc(static_cast<size_t>(size) * sizeof(T)));
      if (numbers_ == nullptr) std::abort();
      size_ = size;
    }
    return numbers_;
  }

 private:
  T* numbers_ = nullptr;
  int64_t size_ = 0;
};

// A form's class Multiplier has `void multiply(const Product&, Begin)`, `kRows`, the most efficient number of rows, and
// `kTiles`, whether sixteen steps are taken at once. Create one per thread's work: it owns that thread's state.

// Dispatches to f.operator()<Rows>() for `rows` of 1 to Rows.
template <int Rows, class F>
OCTAVO_INLINE void with_rows(int64_t rows, const F& f) {
  if (rows == Rows)
    f.template operator()<Rows>();
  else if constexpr (Rows > 1)
    with_rows<Rows - 1>(rows, f);
}

}  // namespace octavo::OCTAVO_FORM
