// Plain C++, with GCC's and Clang's vectors for any processor: the definition of each operation.
#pragma once

#include <utility>

#include "exponent.h"

namespace octavo::OCTAVO_FORM {

typedef float FourFloats __attribute__((vector_size(16)));
typedef double FourDoubles __attribute__((vector_size(32)));
typedef int32_t FourWords __attribute__((vector_size(16)));
typedef uint32_t FourBits __attribute__((vector_size(16)));  // sums of which wrap
typedef uint64_t FourLongs __attribute__((vector_size(32)));
typedef uint16_t FourHalves __attribute__((vector_size(8)));
typedef int8_t FourSigned __attribute__((vector_size(4)));
typedef uint8_t FourBytes __attribute__((vector_size(4)));

constexpr int kFours = kLanes / 4;

struct Floats {
  FourFloats at[kFours];
};
struct Words {
  FourWords at[kFours];
};
using Mask = Words;  // -1 or 0

// A vector of `of(i)` for each four lanes.
template <class Result, class Of>
OCTAVO_INLINE Result each(const Of& of) {
  Result result;
  OCTAVO_UNROLL
  for (int i = 0; i < kFours; ++i) result.at[i] = of(i);
  return result;
}

// Folds sixteen numbers by halves: lane i with lane i + 8, then + 4, + 2, + 1.
template <class Vector, class Combine>
OCTAVO_INLINE auto fold(const Vector& x, const Combine& combine) {
  const auto four = combine(combine(x.at[0], x.at[2]), combine(x.at[1], x.at[3]));
  return combine(combine(four[0], four[2]), combine(four[1], four[3]));
}
constexpr auto kSum = [](auto a, auto b) { return a + b; };
constexpr auto kLeast = [](auto a, auto b) { return a < b ? a : b; };
constexpr auto kMost = [](auto a, auto b) { return a > b ? a : b; };

OCTAVO_INLINE Floats splat(float x) {
  return each<Floats>([&](int) { return FourFloats{x, x, x, x}; });
}
OCTAVO_INLINE Words splat(int32_t x) {
  return each<Words>([&](int) { return FourWords{x, x, x, x}; });
}
OCTAVO_INLINE Floats load(const float* p) {
  Floats x;
  __builtin_memcpy(x.at, p, sizeof x.at);
  return x;
}
OCTAVO_INLINE Words load(const int32_t* p) {
  Words x;
  __builtin_memcpy(x.at, p, sizeof x.at);
  return x;
}
OCTAVO_INLINE void store(float* p, const Floats& x) { __builtin_memcpy(p, x.at, sizeof x.at); }
OCTAVO_INLINE void store(int32_t* p, const Words& x) { __builtin_memcpy(p, x.at, sizeof x.at); }

OCTAVO_INLINE Floats operator+(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] + b.at[i]; });
}
OCTAVO_INLINE Floats operator-(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] - b.at[i]; });
}
OCTAVO_INLINE Floats operator*(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] * b.at[i]; });
}
OCTAVO_INLINE Floats operator/(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.at[i] / b.at[i]; });
}
OCTAVO_INLINE Floats min(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return kLeast(a.at[i], b.at[i]); });
}
OCTAVO_INLINE Floats max(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return kMost(a.at[i], b.at[i]); });
}

OCTAVO_INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c);  // see fma.h
OCTAVO_INLINE Floats fma_bf16(const Floats& a, const Floats& b, const Floats& c);
OCTAVO_INLINE Floats fnma(const Floats& a, const Floats& b, const Floats& c) {
  return fma(each<Floats>([&](int i) { return -a.at[i]; }), b, c);
}

OCTAVO_INLINE Words operator+(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return FourWords(FourBits(a.at[i]) + FourBits(b.at[i])); });
}
OCTAVO_INLINE Words operator-(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return FourWords(FourBits(a.at[i]) - FourBits(b.at[i])); });
}
OCTAVO_INLINE Words operator&(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return a.at[i] & b.at[i]; });
}
OCTAVO_INLINE Words operator|(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return a.at[i] | b.at[i]; });
}
OCTAVO_INLINE Words min(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return kLeast(a.at[i], b.at[i]); });
}
OCTAVO_INLINE Words max(const Words& a, const Words& b) {
  return each<Words>([&](int i) { return kMost(a.at[i], b.at[i]); });
}
template <int N>
OCTAVO_INLINE Words shift_left(const Words& a) {
  return each<Words>([&](int i) { return FourWords(FourBits(a.at[i]) << N); });
}
template <int N>
OCTAVO_INLINE Words shift_right(const Words& a) {
  return each<Words>([&](int i) { return FourWords(FourBits(a.at[i]) >> N); });
}

OCTAVO_INLINE Words bits(const Floats& x) {
  return each<Words>([&](int i) { return FourWords(x.at[i]); });
}
OCTAVO_INLINE Floats floats(const Words& x) {
  return each<Floats>([&](int i) { return FourFloats(x.at[i]); });
}
OCTAVO_INLINE Floats to_floats(const Words& x) {
  return each<Floats>([&](int i) { return __builtin_convertvector(x.at[i], FourFloats); });
}
// A double of this size has no bits below one: adding rounds to nearest even, and leaves the integer in its low bits.
OCTAVO_INLINE Words to_words(const Floats& x) {
  return each<Words>([&](int i) {
    const auto rounded = __builtin_convertvector(x.at[i], FourDoubles) + 0x1.8p52;
    const auto low = __builtin_convertvector((FourLongs)rounded, FourBits);
    const auto fits = (x.at[i] >= -0x1p31f) & (x.at[i] < 0x1p31f);
    return fits ? FourWords(low) : FourWords{} + INT32_MIN;
  });
}

OCTAVO_INLINE Mask lanes(int64_t from, int64_t to) {
  const auto first = static_cast<int32_t>(smaller(larger(from, 0), kLanes));
  const auto last = static_cast<int32_t>(smaller(larger(to, 0), kLanes));
  return each<Words>([&](int i) {
    const auto lane = FourWords{0, 1, 2, 3} + 4 * i;
    return (lane >= first) & (lane < last);
  });
}
OCTAVO_INLINE Words select(const Mask& mask, const Words& a, const Words& b) {
  return each<Words>([&](int i) { return mask.at[i] ? a.at[i] : b.at[i]; });
}

OCTAVO_INLINE float reduce_add(const Floats& x) { return fold(x, kSum); }
OCTAVO_INLINE float reduce_max(const Floats& x) { return fold(x, kMost); }
OCTAVO_INLINE float reduce_min(const Floats& x) { return fold(x, kLeast); }
OCTAVO_INLINE int32_t reduce_max(const Words& x) { return fold(x, kMost); }
OCTAVO_INLINE int32_t reduce_add(const Words& x) {
  struct {
    FourBits at[kFours];
  } wrapping;
  __builtin_memcpy(&wrapping, &x, sizeof x);
  return static_cast<int32_t>(fold(wrapping, kSum));
}

// Converts sixteen numbers at p, of which `Four` holds four, to 32 bits, or back.
template <class Four, class Number>
OCTAVO_INLINE Words load_widened(const Number* p) {
  return each<Words>([&](int i) {
    Four four;
    __builtin_memcpy(&four, p + 4 * i, sizeof four);
    return __builtin_convertvector(four, FourWords);
  });
}
template <class Four, class Number>
OCTAVO_INLINE void store_narrowed(Number* p, const Words& x) {
  OCTAVO_UNROLL
  for (int i = 0; i < kFours; ++i) {
    const auto four = __builtin_convertvector(x.at[i], Four);
    __builtin_memcpy(p + 4 * i, &four, sizeof four);
  }
}
OCTAVO_INLINE Words clamped(const Words& x, int32_t least, int32_t most) {
  return min(max(x, splat(least)), splat(most));
}
OCTAVO_INLINE Words load_halves(const Bf16* p) { return load_widened<FourHalves>(p); }
OCTAVO_INLINE void store_halves(Bf16* p, const Words& x) { store_narrowed<FourHalves>(p, x); }
OCTAVO_INLINE Words load_signed(const int8_t* p) { return load_widened<FourSigned>(p); }
OCTAVO_INLINE void store_signed(int8_t* p, const Words& x) { store_narrowed<FourSigned>(p, clamped(x, -128, 127)); }
OCTAVO_INLINE void store_bytes(uint8_t* p, const Words& x) { store_narrowed<FourBytes>(p, clamped(x, 0, 255)); }
OCTAVO_INLINE void store_bytes(uint8_t* p, const Words (&x)[4]) {
  for (int i = 0; i < 4; ++i) store_bytes(p + i * kLanes, x[i]);
}

OCTAVO_INLINE void store_weights(uint8_t* p, const Words (&below)[4], Words& sum) {
  for (int j = 0; j < 4; ++j) {
    const Words x = clamped(below[j], 0, 31 * 64);  // shifted right by 15, all powers are zero
    const Words fine = each<Words>([&](int i) {
      const auto power = [&](int lane) { return kPowers.at[x.at[i][lane] & 63] >> (x.at[i][lane] >> 6); };
      return FourWords{power(0), power(1), power(2), power(3)};
    });
    sum = sum + fine;
    store_bytes(p + j * kLanes, shift_right<7>(fine + splat(64)));
  }
}

OCTAVO_INLINE void transpose(Words (&rows)[16]) {
  int32_t square[16][kLanes];
  for (int r = 0; r < 16; ++r) store(square[r], rows[r]);
  for (int r = 0; r < 16; ++r)
    for (int c = 0; c < r; ++c) std::swap(square[r][c], square[c][r]);
  for (int r = 0; r < 16; ++r) rows[r] = load(square[r]);
}

// Rows, and vectors of scores, computed at once: so many sums, weights and inputs fit the registers.
constexpr int kScoreRows = 4, kScorePanels = 1;

// --- Products -------------------------------------------------------------------------------------------------------

// Rows and columns are widened to 16 bits, once for each product, and lie along the inner dimension: so compilers turn
// the sums of a tile into the processor's multiply-and-add of 16-bit numbers, if it has one.
class Multiplier {
 public:
  static constexpr int64_t kRows = 24;
  static constexpr bool kTiles = false;

  void multiply(const Product& p, Begin begin) {
    const int64_t inner = round_up(4 * p.steps, kUnit);
    int16_t* rows = rows_.reserve(p.rows * inner);
    for (int64_t row = 0; row < p.rows; ++row)
      widen<uint8_t>(p.a + row * p.a_stride, p.steps, inner, rows + row * inner);
    int16_t* columns = columns_.reserve(kTileColumns * inner);
    Word* words = words_.reserve(kTileColumns * p.steps);
    for (int64_t column = 0; column < p.vectors * kLanes; column += kTileColumns) {
      const Word* panel = p.panels + column / kPanel * p.panel_stride + column % kPanel;
      for (int64_t k = 0; k < p.steps; ++k)
        for (int64_t j = 0; j < kTileColumns; ++j) words[j * p.steps + k] = panel[k * kPanel + j];
      for (int64_t j = 0; j < kTileColumns; ++j)
        widen<int8_t>(words + j * p.steps, p.steps, inner, columns + j * inner);
      const Word* start = begin == Begin::kZero ? kZeros : panel + p.steps * kPanel;
      for (int64_t row = 0; row < p.rows; row += kTileRows)
        with_rows<kTileRows>(smaller(p.rows - row, kTileRows), [&]<int Rows>() {
          tile<Rows>(rows + row * inner, columns, inner, start, p.c + row * p.c_stride + column, p.c_stride);
        });
    }
  }

 private:
  static constexpr int64_t kUnit = 8;  // the inner dimension is padded with zeros to a multiple
  static constexpr int kTileRows = 2;
  static constexpr int kTileColumns = 4;
  static constexpr Word kZeros[kTileColumns] = {};

  template <class Byte>
  static void widen(const Word* words, int64_t steps, int64_t padded, int16_t* to) {
    const auto* bytes = reinterpret_cast<const Byte*>(words);
    for (int64_t i = 0; i < 4 * steps; ++i) to[i] = bytes[i];
    for (int64_t i = 4 * steps; i < padded; ++i) to[i] = 0;
  }

  template <int Rows>
  static OCTAVO_INLINE void tile(const int16_t* a, const int16_t* b, int64_t inner, const Word* start, Word* c,
                                 int64_t c_stride) {
    int32_t sums[Rows][kTileColumns] = {};  // of at most 65,536 products of 255 · 127
#ifdef __clang__  // by itself it takes vectors of four
#pragma clang loop vectorize_width(8) interleave_count(1)
#endif
    for (int64_t i = 0; i < inner; ++i)
      for (int r = 0; r < Rows; ++r)
        for (int j = 0; j < kTileColumns; ++j) sums[r][j] += a[r * inner + i] * b[j * inner + i];
    for (int r = 0; r < Rows; ++r)
      for (int j = 0; j < kTileColumns; ++j) c[r * c_stride + j] = start[j] + static_cast<Word>(sums[r][j]);
  }

  Buffer<int16_t> rows_, columns_;
  Buffer<Word> words_;
};

}  // namespace octavo::OCTAVO_FORM

#include "fma.h"
