// Runs one function on several threads.
#pragma once

#include <cstdint>
#include <memory>

namespace octavo {

struct Job;

// Calls body(context) on the calling thread, and meanwhile on up to `threads` - 1 others if they are free; returns when
// all calls have returned. Numbers are rounded to nearest and denormals kept in it, whatever the caller's mode. Calls
// from different threads share the others, of which there are as many as one call has asked for.
void run_on_threads(int32_t threads, void (*body)(void* context), void* context) noexcept;

// A call of body(context) that another thread makes, if it is free. Whoever destroys this makes the call if none has
// begun it, and waits for its end.
class Aside {
 public:
  Aside(void (*body)(void* context), void* context);
  ~Aside();
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

 private:
  const std::unique_ptr<Job> job_;
};

// While one exists, threads that have finished wait awake for the next part of this call; otherwise they soon sleep.
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
