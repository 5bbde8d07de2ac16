// Splits work into pieces that threads take as they become free. No result depends on which thread computes it, or
// when.
#pragma once

#include <atomic>

#include "product.h"
#include "threads.h"

namespace octavo::OCTAVO_FORM {

// Calls piece(begin, end, local) until [0, items) is covered in steps of at most `step`. Each thread has its own Local.
template <class Local, class Piece>
void for_each_piece(int32_t threads, int64_t items, int64_t step, const Piece& piece) {
  struct Shared {
    const Piece& piece;
    int64_t items;
    int64_t step;
    std::atomic<int64_t> next{0};
  } shared{piece, items, step};
  const auto work = [](void* context) {
    auto& shared = *static_cast<Shared*>(context);
    Local local;
    for (int64_t begin; (begin = shared.next.fetch_add(shared.step)) < shared.items;)
      shared.piece(begin, smaller(begin + shared.step, shared.items), local);
  };
  const int64_t pieces = (items + step - 1) / step;
  if (pieces > 0) run_on_threads(static_cast<int32_t>(smaller(pieces, threads)), work, &shared);
}

// Rows per piece: `most` if there are many rows; if there are few, at least as many pieces as threads.
inline int64_t rows_a_piece(int64_t threads, int64_t rows, int64_t most) {
  const int64_t rounds = (rows + most * threads - 1) / (most * threads);
  const int64_t pieces = rounds * threads;
  return pieces > 0 ? (rows + pieces - 1) / pieces : 1;
}

}  // namespace octavo::OCTAVO_FORM
