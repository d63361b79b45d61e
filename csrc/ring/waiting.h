// Sleeping until a count is raised, in two processes.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <ctime>

#include "csrc/ring/control.h"

namespace pipecodec::ring {

using Seconds = std::chrono::duration<double>;
using Clock = std::chrono::steady_clock;

constexpr auto kLook =
    std::chrono::milliseconds(100);  // between two looks at whether the other process lives

// Now and `timeout`, which is no time where it is no number.
inline Clock::time_point after(Seconds timeout) {
  const Seconds most = std::chrono::hours(24 * 365);
  const Seconds some = timeout > Seconds(0) ? std::min(timeout, most) : Seconds(0);
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(some);
}

inline void wake(Count& count) {
  count.signal.fetch_add(1);
  syscall(SYS_futex, &count.signal, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// Lets whoever sleeps on the count look at it, after it was raised.
inline void tell(Count& count) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (count.awaited.load(std::memory_order_relaxed) != 0) wake(count);
}

// Sleeps until the count is raised, or a moment. `raised` says whether it has been already.
template <class Raised>
void sleep_on(Count& count, Raised raised) {
  const uint32_t seen = count.signal.load();
  count.awaited.fetch_add(1);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!raised()) {
    const timespec most{0, std::chrono::nanoseconds(kLook).count()};
    syscall(SYS_futex, &count.signal, FUTEX_WAIT, seen, &most, nullptr, 0);
  }
  count.awaited.fetch_sub(1);
}

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace pipecodec::ring
