// Memory that a thread keeps for its next call, because fresh pages cost more than a kernel's work on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace octavo::OCTAVO_FORM {

// Allocates cache-line-aligned pieces; the thread's next Scratch of the same use reclaims all of them.
class Scratch {
 public:
  enum Use { kPiece, kCall, kUses };  // for one piece of work, or for all pieces of a call made by this thread

  explicit Scratch(Use use = kPiece) : block_(thread_block(use)) { block_.used = 0; }

  // Pieces never move. Their contents are uninitialised.
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    if (block_.used + bytes > block_.size) grow(bytes);
    void* piece = block_.base + block_.used;
    block_.used += bytes;
    return static_cast<T*>(piece);
  }

 private:
  struct Block {
    char* base = nullptr;
    size_t size = 0;
    size_t used = 0;
    Block* outgrown = nullptr;  // still used by pieces allocated before it was replaced

    ~Block() {
      std::free(base);
      delete outgrown;
    }
  };

  static Block& thread_block(Use use) {
    static thread_local Block blocks[kUses];
    Block& block = blocks[use];
    delete block.outgrown;
    block.outgrown = nullptr;
    return block;
  }

  void grow(size_t bytes) {
    Block* old = new Block;
    old->base = block_.base;
    old->outgrown = block_.outgrown;
    block_.outgrown = old;
    block_.size = 2 * (block_.size + bytes) + 65536;
    block_.base = static_cast<char*>(std::aligned_alloc(64, (block_.size + 63) / 64 * 64));
    if (block_.base == nullptr) std::abort();
    block_.used = 0;
  }

  Block& block_;
};

}  // namespace octavo::OCTAVO_FORM
