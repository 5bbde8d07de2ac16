// The products of AVX-512, and of AMX where there are tiles: eight registers of up to 16 rows of 16 words, and the
// product of two of them in one instruction.
//
// The amx form uses the instructions. The amx_emulated form does the same in plain loops, so that the code that uses
// tiles can be tested on machines without them; it is never used for serving.
#pragma once

#include <initializer_list>

#include "forms/avx512.h"

#if !defined(__AMX_TILE__) && !defined(OCTAVO_EMULATE_AMX)

namespace octavo::OCTAVO_FORM {

// Multiplies in vector registers.
class Multiplier {
 public:
  static constexpr int64_t kRows = kRegisterRows;
  static constexpr bool kTiles = false;

  void multiply(const Product& p, Begin begin) { register_product(p, begin); }
};

}  // namespace octavo::OCTAVO_FORM

#else

namespace octavo::OCTAVO_FORM {

// The layout that LDTILECFG reads (Intel's manual, volume 1, chapter 18).
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = 64;
  }
};

#ifdef OCTAVO_EMULATE_AMX

struct EmulatedTiles {
  TileShapes shapes;
  alignas(64) uint32_t words[8][16][16];
};
inline thread_local EmulatedTiles emulated_tiles;

inline void tile_configure(const TileShapes& shapes) { emulated_tiles.shapes = shapes; }
inline void tile_close() { emulated_tiles.shapes = TileShapes(); }

template <int T>
void tile_zero() {
  for (auto& row : emulated_tiles.words[T]) __builtin_memset(row, 0, sizeof row);
}
template <int T>
void tile_load(const uint32_t* p, int64_t stride) {
  for (int r = 0; r < emulated_tiles.shapes.rows[T]; ++r)
    __builtin_memcpy(emulated_tiles.words[T][r], p + r * stride, 64);
}
template <int T>
void tile_store(uint32_t* p, int64_t stride) {
  for (int r = 0; r < emulated_tiles.shapes.rows[T]; ++r)
    __builtin_memcpy(p + r * stride, emulated_tiles.words[T][r], 64);
}
template <int C, int A, int B>
void tile_dot() {
  auto& tiles = emulated_tiles;
  for (int r = 0; r < tiles.shapes.rows[C]; ++r) {
    __m512i sum = _mm512_loadu_si512(tiles.words[C][r]);
    for (int k = 0; k < tiles.shapes.rows[B]; ++k)
      sum = dot(sum, _mm512_set1_epi32(static_cast<int>(tiles.words[A][r][k])), _mm512_loadu_si512(tiles.words[B][k]));
    _mm512_storeu_si512(tiles.words[C][r], sum);
  }
}

#else

// Inline assembly, because the intrinsics take a tile's number as a token, not as a template argument.
inline void tile_configure(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
inline void tile_close() { asm volatile("tilerelease"); }

template <int T>
OCTAVO_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
OCTAVO_INLINE void tile_load(const uint32_t* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride * 4), "i"(T) : "memory");
}
template <int T>
OCTAVO_INLINE void tile_store(uint32_t* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride * 4), "i"(T) : "memory");
}
template <int C, int A, int B>
OCTAVO_INLINE void tile_dot() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#endif

// Multiplies with tiles, four of 16 x 16 at once. It owns the thread's tile state during its lifetime.
class Multiplier {
 public:
  static constexpr int64_t kRows = 32;
  static constexpr bool kTiles = true;

  Multiplier() = default;
  Multiplier(const Multiplier&) = delete;
  Multiplier& operator=(const Multiplier&) = delete;
  ~Multiplier() {
    if (height_) tile_close();
  }

  // The last tile may overlap the previous one: shapes are only changed for fewer than 16 rows, because that takes
  // longer than a product.
  void multiply(Product p, Begin begin) {
    const int64_t tiled = p.steps / 16 * 16;
    if (tiled == 0) return register_product(p, begin);
    const int64_t height = smaller(p.rows, 16);
    configure(height);
    for (int64_t row = 0; row < p.rows; row += kRows) {
      const int64_t above = smaller(row, p.rows - height);
      const int64_t below = smaller(row + 16, p.rows - height);
      for (int64_t v = 0; v < p.vectors; v += 2) {
        const bool right = v + 1 < p.vectors;
        if (row + 16 < p.rows)
          right ? tiles<true, true>(p, begin, above, below, v, tiled)
                : tiles<true, false>(p, begin, above, below, v, tiled);
        else
          right ? tiles<false, true>(p, begin, above, 0, v, tiled) : tiles<false, false>(p, begin, above, 0, v, tiled);
      }
    }
    if (tiled < p.steps) {
      p.a += tiled;
      p.panels += tiled * kPanel;
      p.steps -= tiled;
      register_product(p, Begin::kC);
    }
  }

 private:
  // Tiles 0 to 3 are C, row-major; 4 and 5 are A, upper and lower; 6 and 7 are B, left and right.
  template <bool Below, bool Right>
  static OCTAVO_INLINE void tiles(const Product& p, Begin begin, int64_t above, int64_t below, int64_t vector,
                                  int64_t steps) {
    const Word* panel = p.panels + vector / 2 * p.panel_stride;
    const Word* a = p.a + above * p.a_stride;
    const Word* a_below = p.a + below * p.a_stride;
    const Word* first = begin == Begin::kZero ? nullptr : panel + p.steps * kPanel;
    start<0>(first, 0);
    if constexpr (Right) start<1>(first, kLanes);
    if constexpr (Below) start<2>(first, 0);
    if constexpr (Below && Right) start<3>(first, kLanes);
    for (int64_t k = 0; k < steps; k += 16) {
      tile_load<4>(a + k, p.a_stride);
      tile_load<6>(panel + k * kPanel, kPanel);
      tile_dot<0, 4, 6>();
      if constexpr (Right) {
        tile_load<7>(panel + k * kPanel + kLanes, kPanel);
        tile_dot<1, 4, 7>();
      }
      if constexpr (Below) {
        tile_load<5>(a_below + k, p.a_stride);
        tile_dot<2, 5, 6>();
        if constexpr (Right) tile_dot<3, 5, 7>();
      }
    }
    Word* c = p.c + above * p.c_stride + vector * kLanes;
    Word* c_below = p.c + below * p.c_stride + vector * kLanes;
    tile_store<0>(c, p.c_stride);
    if constexpr (Right) tile_store<1>(c + kLanes, p.c_stride);
    if constexpr (Below) tile_store<2>(c_below, p.c_stride);
    if constexpr (Below && Right) tile_store<3>(c_below + kLanes, p.c_stride);
  }

  template <int T>
  static OCTAVO_INLINE void start(const Word* row, int64_t column) {
    if (row == nullptr)
      tile_zero<T>();
    else
      tile_load<T>(row + column, 0);  // the same row for all
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

}  // namespace octavo::OCTAVO_FORM

#endif
