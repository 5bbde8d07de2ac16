#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

// Looks before a thread sleeps: some 50 microseconds. A layer has two parallel parts, of some 300 microseconds each for
// a segment, and waking a thread takes 5 to 50.
constexpr int kLooks = 1000;

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

struct Job {
  void (*body)(void*);
  void* context;
  int32_t unclaimed;            // calls that a helper may still take; guarded by the pool's mutex
  std::atomic<int32_t> running{0};
  Job* next = nullptr;
};

class Pool {
 public:
  void run(int32_t helpers, void (*body)(void*), void* context) {
    Job job{body, context, helpers};
    {
      const std::lock_guard lock(mutex_);
      for (; helpers_ < helpers && start(); ++helpers_) {
      }
      job.next = first_;
      first_ = &job;
      waiting_.store(true, std::memory_order_relaxed);
    }
    helpers > 1 ? wake_.notify_all() : wake_.notify_one();
    body(context);
    std::unique_lock lock(mutex_);
    remove(&job);
    lock.unlock();
    for (int look = 0; look < kLooks && job.running.load(std::memory_order_acquire); ++look) pause();
    lock.lock();
    finished_.wait(lock, [&] { return job.running.load(std::memory_order_acquire) == 0; });
  }

 private:
  bool start() {
    try {
      std::thread([this] { help(); }).detach();
      return true;
    } catch (const std::system_error&) {  // no more threads: the caller works alone
      return false;
    }
  }

  [[noreturn]] void help() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (first_ == nullptr) {
        lock.unlock();
        for (int look = 0; look < kLooks && !waiting_.load(std::memory_order_relaxed); ++look) pause();
        lock.lock();
        wake_.wait(lock, [&] { return first_ != nullptr; });
      }
      Job* job = first_;
      job->running.fetch_add(1, std::memory_order_relaxed);
      if (--job->unclaimed == 0) remove(job);
      lock.unlock();
      job->body(job->context);
      lock.lock();  // the job may be gone once nobody is running, so the last look at it is under the mutex
      if (job->running.fetch_sub(1, std::memory_order_release) == 1) finished_.notify_all();
    }
  }

  void remove(const Job* job) {
    for (Job** at = &first_; *at; at = &(*at)->next)
      if (*at == job) {
        *at = job->next;
        break;
      }
    waiting_.store(first_ != nullptr, std::memory_order_relaxed);
  }

  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  std::atomic<bool> waiting_{false};
  Job* first_ = nullptr;
  int32_t helpers_ = 0;
};

// Never destroyed, since its threads outlive main. A forked process has none of them, and gets a pool of its own.
Pool* pool = [] {
#ifndef _WIN32
  pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
  return new Pool;
}();

}  // namespace

void run_on_threads(int32_t threads, void (*body)(void*), void* context) {
  if (threads > 1)
    pool->run(threads - 1, body, context);
  else
    body(context);
}

}  // namespace octavo
