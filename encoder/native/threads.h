// Runs one function on several threads.
#pragma once

#include <cstdint>

namespace octavo {

// Calls body(context) on the calling thread, and meanwhile on up to `threads` - 1 others if they are free; returns when
// all calls have returned. Thread-safe; calls from different threads share the others.
void run_on_threads(int32_t threads, void (*body)(void* context), void* context);

}  // namespace octavo
