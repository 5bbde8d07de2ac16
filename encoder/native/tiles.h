// AMX tiles: eight registers of up to 16 rows of 16 words, and the product of two of them in one instruction.
//
// The amx set uses the instructions. The amx_emulated set does the same in plain loops, so that the code that uses
// tiles can be tested on machines without them; it is never used for serving.
#pragma once

#include "simd.h"

#if defined(__AMX_TILE__) || defined(OCTAVO_EMULATE_AMX)
#define OCTAVO_HAS_TILES
#endif

#ifdef OCTAVO_HAS_TILES

namespace octavo::OCTAVO_ISA {

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

}  // namespace octavo::OCTAVO_ISA

#ifdef OCTAVO_EMULATE_AMX

namespace octavo::OCTAVO_ISA {

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
template <class Dot, int C, int A, int B>
void tile_dot() {
  auto& tiles = emulated_tiles;
  for (int r = 0; r < tiles.shapes.rows[C]; ++r) {
    __m512i sum = _mm512_loadu_si512(tiles.words[C][r]);
    for (int k = 0; k < tiles.shapes.rows[B]; ++k)
      sum = Dot::add(sum, _mm512_set1_epi32(static_cast<int>(tiles.words[A][r][k])),
                     _mm512_loadu_si512(tiles.words[B][k]));
    _mm512_storeu_si512(tiles.words[C][r], sum);
  }
}

}  // namespace octavo::OCTAVO_ISA

#else

namespace octavo::OCTAVO_ISA {

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

template <class Dot, int C, int A, int B>
struct TileDot;
template <int C, int A, int B>
struct TileDot<DotBf16, C, A, B> {
  static OCTAVO_INLINE void run() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
};
template <int C, int A, int B>
struct TileDot<DotBytes, C, A, B> {
  static OCTAVO_INLINE void run() { asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
};
template <class Dot, int C, int A, int B>
OCTAVO_INLINE void tile_dot() {
  TileDot<Dot, C, A, B>::run();
}

}  // namespace octavo::OCTAVO_ISA

#endif  // OCTAVO_EMULATE_AMX
#endif  // OCTAVO_HAS_TILES
