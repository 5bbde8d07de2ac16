// The native core's only matrix product: C = A · B over 32-bit words, for scores, weighted values and 8-bit layers.
//
// A is row-major. B is packed in panels of 32 columns: for each step along the inner dimension, a panel has the words
// of its 32 columns. C is row-major, 32-bit: float sums for DotBf16, exact integers for DotBytes. A word is two
// bfloat16 or four bytes, so an inner dimension of K numbers is K / 2 or K / 4 steps. If rows of A are bytes around a
// zero point, the 32 words after a panel's steps are the initial values of its sums, which cancel the zero point.
//
// A row of C depends only on its row of A, never on other rows, and is summed in the order of the steps.
#pragma once

#include <initializer_list>

#include "simd.h"
#include "tiles.h"

namespace octavo::OCTAVO_ISA {

constexpr int64_t kPanel = 32;  // columns
using Word = uint32_t;

// Rows of C computed at once. Twelve rows by two vectors keep 24 sums in registers, with two loads and twelve
// broadcasts for 24 dots: 98 % of a Zen 5 core's peak from L1 or L2 (1.04 to 1.1 TOPS in bytes).
constexpr int kRegisterRows = 12;

// Initial values of sums: zero, the 32 words after a panel's steps, or C.
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

// Adds the products of `Rows` rows of A and `Vectors` vectors of a panel to sums in registers.
template <class Dot, int Rows, int Vectors>
OCTAVO_INLINE void accumulate(__m512i (&sums)[Rows][Vectors], const Word* a, int64_t a_stride, const Word* panel,
                              int64_t steps) {
  for (int64_t k = 0; k < steps; ++k) {
    __m512i columns[Vectors];
    for (int v = 0; v < Vectors; ++v) columns[v] = _mm512_loadu_si512(panel + k * kPanel + v * kLanes);
    for (int r = 0; r < Rows; ++r) {
      const __m512i word = _mm512_set1_epi32(static_cast<int>(a[r * a_stride + k]));
      for (int v = 0; v < Vectors; ++v) sums[r][v] = Dot::add(sums[r][v], word, columns[v]);
    }
  }
}

template <class Dot, int Rows, int Vectors, Begin B>
OCTAVO_INLINE void register_tile(const Word* a, int64_t a_stride, const Word* panel, int64_t steps, Word* c,
                                 int64_t c_stride) {
  __m512i sums[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) {
      const Word* begin = B == Begin::kC ? c + r * c_stride : panel + steps * kPanel;
      sums[r][v] = B == Begin::kZero ? _mm512_setzero_si512() : _mm512_loadu_si512(begin + v * kLanes);
    }
  accumulate<Dot>(sums, a, a_stride, panel, steps);
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_si512(c + r * c_stride + v * kLanes, sums[r][v]);
}

// Multiplies at most twelve rows with all panels.
template <class Dot, int Rows, Begin B>
void register_rows(const Product& p) {
  for (int64_t v = 0; v < p.vectors; v += 2) {
    const Word* panel = p.panels + v / 2 * p.panel_stride;
    Word* c = p.c + v * kLanes;
    if (v + 1 < p.vectors)
      register_tile<Dot, Rows, 2, B>(p.a, p.a_stride, panel, p.steps, c, p.c_stride);
    else
      register_tile<Dot, Rows, 1, B>(p.a, p.a_stride, panel, p.steps, c, p.c_stride);
  }
}

// Dispatches to f.operator()<Rows>() for `rows` of 1 to 12.
template <int Rows = kRegisterRows, class F>
OCTAVO_INLINE void with_rows(int64_t rows, const F& f) {
  if (rows == Rows)
    f.template operator()<Rows>();
  else if constexpr (Rows > 1)
    with_rows<Rows - 1>(rows, f);
}

template <class Dot, Begin B>
OCTAVO_INLINE void register_product(Product p) {
  while (p.rows > 0) {
    const int64_t rows = smaller(p.rows, kRegisterRows);
    with_rows(rows, [&]<int Rows>() { register_rows<Dot, Rows, B>(p); });
    p.a += rows * p.a_stride;
    p.c += rows * p.c_stride;
    p.rows -= rows;
  }
}

#ifdef OCTAVO_HAS_TILES

// Multiplies with tiles, four of 16 x 16 at once. Create one per thread's work; it owns the thread's tile state during
// its lifetime.
class Multiplier {
 public:
  static constexpr int64_t kRows = 32;  // the most efficient number of rows
  static constexpr bool kTiles = true;

  Multiplier() = default;
  Multiplier(const Multiplier&) = delete;
  Multiplier& operator=(const Multiplier&) = delete;
  ~Multiplier() {
    if (height_) tile_close();
  }

  // The last tile may overlap the previous one: shapes are only changed for fewer than 16 rows, because that takes
  // longer than a product.
  template <class Dot, Begin B = Begin::kZero>
  void multiply(Product p) {
    const int64_t tiled = p.steps / 16 * 16;
    if (tiled == 0) return register_product<Dot, B>(p);
    const int64_t height = smaller(p.rows, 16);
    configure(height);
    for (int64_t row = 0; row < p.rows; row += kRows) {
      const int64_t above = smaller(row, p.rows - height);
      const int64_t below = smaller(row + 16, p.rows - height);
      for (int64_t v = 0; v < p.vectors; v += 2) {
        const bool right = v + 1 < p.vectors;
        if (row + 16 < p.rows)
          right ? tiles<Dot, B, true, true>(p, above, below, v, tiled)
                : tiles<Dot, B, true, false>(p, above, below, v, tiled);
        else
          right ? tiles<Dot, B, false, true>(p, above, 0, v, tiled)
                : tiles<Dot, B, false, false>(p, above, 0, v, tiled);
      }
    }
    if (tiled < p.steps) {
      p.a += tiled;
      p.panels += tiled * kPanel;
      p.steps -= tiled;
      register_product<Dot, Begin::kC>(p);
    }
  }

 private:
  // Tiles 0 to 3 are C, row-major; 4 and 5 are A, upper and lower; 6 and 7 are B, left and right.
  template <class Dot, Begin B, bool Below, bool Right>
  static OCTAVO_INLINE void tiles(const Product& p, int64_t above, int64_t below, int64_t vector, int64_t steps) {
    const Word* panel = p.panels + vector / 2 * p.panel_stride;
    const Word* a = p.a + above * p.a_stride;
    const Word* a_below = p.a + below * p.a_stride;
    const Word* begin = panel + p.steps * kPanel;
    start<B, 0>(begin);
    if constexpr (Right) start<B, 1>(begin + kLanes);
    if constexpr (Below) start<B, 2>(begin);
    if constexpr (Below && Right) start<B, 3>(begin + kLanes);
    for (int64_t k = 0; k < steps; k += 16) {
      tile_load<4>(a + k, p.a_stride);
      tile_load<6>(panel + k * kPanel, kPanel);
      tile_dot<Dot, 0, 4, 6>();
      if constexpr (Right) {
        tile_load<7>(panel + k * kPanel + kLanes, kPanel);
        tile_dot<Dot, 1, 4, 7>();
      }
      if constexpr (Below) {
        tile_load<5>(a_below + k, p.a_stride);
        tile_dot<Dot, 2, 5, 6>();
        if constexpr (Right) tile_dot<Dot, 3, 5, 7>();
      }
    }
    Word* c = p.c + above * p.c_stride + vector * kLanes;
    Word* c_below = p.c + below * p.c_stride + vector * kLanes;
    tile_store<0>(c, p.c_stride);
    if constexpr (Right) tile_store<1>(c + kLanes, p.c_stride);
    if constexpr (Below) tile_store<2>(c_below, p.c_stride);
    if constexpr (Below && Right) tile_store<3>(c_below + kLanes, p.c_stride);
  }

  template <Begin B, int T>
  static OCTAVO_INLINE void start(const Word* row) {
    static_assert(B != Begin::kC);
    if constexpr (B == Begin::kZero)
      tile_zero<T>();
    else
      tile_load<T>(row, 0);  // the same row for all
  }

  void configure(int64_t height) {
    if (height == height_) return;
    TileShapes shapes;
    for (const int tile : {0, 1, 2, 3, 4, 5}) shapes.set(tile, height);
    for (const int tile : {6, 7}) shapes.set(tile, 16);
    tile_configure(shapes);
    height_ = height;
  }

  int64_t height_ = 0;
};

#else

// Multiplies in vector registers.
class Multiplier {
 public:
  static constexpr int64_t kRows = kRegisterRows;
  static constexpr bool kTiles = false;

  template <class Dot, Begin B = Begin::kZero>
  void multiply(const Product& p) {
    register_product<Dot, B>(p);
  }
};

#endif

}  // namespace octavo::OCTAVO_ISA
