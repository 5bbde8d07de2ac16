#include "threads.h"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Waits awake, for something that takes less time than a sleeping thread's waking, which took up to milliseconds in a
// virtual machine: another thread's last piece of a part, or the next part of a call.
template <class Condition>
void look_for(const Condition& condition) {
  while (!condition()) {
    for (int i = 0; i < 8; ++i) relax();
    std::this_thread::yield();  // what is waited for may need this processor
  }
}

// Floating point as IEEE 754 has it by default, for the calling thread: a library linked with -ffast-math may have set
// it to flush denormals.
class DefaultFloats {
 public:
#if defined(__x86_64__)
  DefaultFloats() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloats() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#elif defined(__aarch64__)
  DefaultFloats() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
  }
  ~DefaultFloats() { asm volatile("msr fpcr, %0" ::"r"(before_)); }

 private:
  uint64_t before_;
#endif
};

// Where Linux wakes a thread on the processor of the one that woke it, as in virtual machines whose processors share no
// cache, the two would take turns on it until the load is balanced, for milliseconds. Moves this thread to another one.
int processor() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

void leave(int crowded) {
#ifdef __linux__
  cpu_set_t allowed;
  if (sched_getcpu() != crowded || sched_getaffinity(getpid(), sizeof allowed, &allowed) != 0) return;
  CPU_CLR(crowded, &allowed);
  if (CPU_COUNT(&allowed) > 0) sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

// How long a helper waits awake for its next job: a caller of `Aside` has one for it every 0.1 ms.
constexpr std::chrono::microseconds kAwake{200};

}  // namespace

struct Job {
  void (*body)(void*);
  void* context;
  int32_t unclaimed;  // calls that a helper may still take; guarded by the pool's mutex
  int processor;      // the caller's
  bool taken = false;  // by a helper, ever; guarded likewise
  std::atomic<int32_t> running{0};
  Job* next = nullptr;

  Job(int32_t helpers, void (*body)(void*), void* context)
      : body(body), context(context), unclaimed(helpers), processor(octavo::processor()) {}
};

namespace {

class Pool {
 public:
  // Lets as many helpers as it has unclaimed calls take a job, until it is closed.
  void offer(Job& job) noexcept {
    const int32_t helpers = job.unclaimed;
    {
      const std::lock_guard lock(mutex_);
      while (helpers_ < helpers && start()) ++helpers_;
      job.next = first_;
      first_ = &job;
      waiting_.store(true, std::memory_order_relaxed);
    }
    for (int32_t i = 0; i < helpers; ++i) wake_.notify_one();
  }

  // Returns once no helper runs the job any more: whether any did.
  bool close(Job& job) noexcept {
    std::unique_lock lock(mutex_);
    remove(&job);
    lock.unlock();
    look_for([&] { return job.running.load(std::memory_order_acquire) == 0; });
    lock.lock();  // a helper that has just counted itself out may still hold it
    return job.taken;
  }

  std::atomic<int32_t> expecting{0};  // calls that have more parts

 private:
  bool start() {
    try {
      std::thread([this] { help(); }).detach();
      return true;
    } catch (...) {  // no more threads or no memory: the caller works alone
      return false;
    }
  }

  [[noreturn]] void help() noexcept {
    const DefaultFloats floats;
    std::unique_lock lock(mutex_);
    for (;;) {
      if (first_ == nullptr) {
        lock.unlock();
        const auto asleep = std::chrono::steady_clock::now() + kAwake;
        look_for([&] {
          return waiting_.load(std::memory_order_relaxed) ||
                 (expecting.load(std::memory_order_relaxed) == 0 && std::chrono::steady_clock::now() > asleep);
        });
        lock.lock();
        wake_.wait(lock, [&] { return first_ != nullptr; });
      }
      Job* job = first_;
      job->running.fetch_add(1, std::memory_order_relaxed);
      job->taken = true;
      if (--job->unclaimed == 0) remove(job);
      lock.unlock();
      leave(job->processor);
      job->body(job->context);
      lock.lock();
      remove(job);  // its work is done: nobody else need look
      job->running.fetch_sub(1, std::memory_order_release);  // the job is gone once nobody runs and the mutex is free
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
  std::condition_variable wake_;
  std::atomic<bool> waiting_{false};
  Job* first_ = nullptr;
  int32_t helpers_ = 0;
};

// Never destroyed, since its threads outlive main. A forked process has none of them, and gets a pool of its own.
Pool* pool = [] {
  pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
  return new Pool;
}();

}  // namespace

void run_on_threads(int32_t threads, void (*body)(void*), void* context) noexcept {
  const DefaultFloats floats;
  Job job(threads - 1, body, context);
  if (threads > 1) pool->offer(job);
  body(context);
  if (threads > 1) pool->close(job);
}

Aside::Aside(void (*body)(void*), void* context) : job_(std::make_unique<Job>(1, body, context)) { pool->offer(*job_); }

Aside::~Aside() {
  if (pool->close(*job_)) return;
  const DefaultFloats floats;
  job_->body(job_->context);
}

MoreParts::MoreParts(int32_t threads) noexcept : shared_(threads > 1) { pool->expecting += shared_; }
MoreParts::~MoreParts() { pool->expecting -= shared_; }

}  // namespace octavo
