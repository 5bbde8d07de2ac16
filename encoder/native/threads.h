// Runs one function on several threads.
#pragma once

#include <cstdint>

namespace octavo {

// Calls body(context) on the calling thread, and meanwhile on up to `threads` - 1 others if they are free; returns when
// all calls have returned. Numbers are rounded to nearest and denormals kept in it, whatever the caller's mode. Calls
// from different threads share the others, of which there are as many as one call has asked for.
void run_on_threads(int32_t threads, void (*body)(void* context), void* context) noexcept;

// While one exists, threads that have finished wait awake for the next part of this call; otherwise they sleep.
class MoreParts {
 public:
  explicit MoreParts(int32_t threads) noexcept;
  ~MoreParts();
  MoreParts(const MoreParts&) = delete;
  MoreParts& operator=(const MoreParts&) = delete;

 private:
  const bool shared_;
};

}  // namespace octavo
