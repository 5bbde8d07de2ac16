// Splits work into pieces that workers take as they become free. No result depends on which worker computes it, or
// when.
#pragma once

#include <atomic>

#include "kernels.h"

namespace octavo {

// Calls piece(begin, end, local) until [0, items) is covered in steps of at most `step`. Each worker has its own Local.
template <class Local, class Piece>
void for_each_piece(const Workers& workers, int64_t items, int64_t step, const Piece& piece) {
  struct Shared {
    const Piece& piece;
    int64_t items;
    int64_t step;
    std::atomic<int64_t> next{0};
  } shared{piece, items, step};
  const auto work = [](void* context) {
    auto& shared = *static_cast<Shared*>(context);
    Local local;
    for (int64_t begin; (begin = shared.next.fetch_add(shared.step)) < shared.items;) {
      const int64_t end = begin + shared.step;
      shared.piece(begin, end < shared.items ? end : shared.items, local);
    }
  };
  const int64_t pieces = (items + step - 1) / step;
  const int64_t count = workers.count();
  if (pieces > 0) workers.run(static_cast<int>(pieces < count ? pieces : count), work, &shared);
}

// Rows per piece: `most` if there are many rows; if there are few, at least as many pieces as workers.
inline int64_t rows_a_piece(const Workers& workers, int64_t rows, int64_t most) {
  const int64_t count = workers.count();
  const int64_t rounds = (rows + most * count - 1) / (most * count);
  const int64_t pieces = rounds * count;
  return pieces > 0 ? (rows + pieces - 1) / pieces : 1;
}

}  // namespace octavo
