// The reading end of a ring; see writer.h.
#pragma once

#include <atomic>
#include <functional>

#include "csrc/ring/error.h"
#include "csrc/ring/memory.h"
#include "csrc/ring/peer.h"
#include "csrc/ring/waiting.h"

namespace pipecodec::ring {

class Reader {
 public:
  // The memory that process `writer` has open as `file`. Throws Error.
  Reader(pid_t writer, int file, uint64_t secret);
  ~Reader();

  // True where the next message, or the end, is there.
  bool ready() const;

  using Room = std::function<uint8_t*(size_t)>;
  using Sleep = std::function<void(const std::function<void()>&)>;

  // Takes the next message; `room(size)` gives the memory for it. `sleep` runs its argument, which waits for
  // a tenth of a second at most; it may throw. Throws Error.
  void take(const Room& room, Seconds timeout, const Sleep& sleep);

  // How many messages were taken, or begun.
  uint64_t taken() const { return begun_.load(); }

  void shut();

 private:
  size_t available() const;
  void get(uint8_t* to, size_t size);
  void wait(Clock::time_point until, const Sleep& sleep);  // for more bytes

  Peer writer_;
  Mapping mapping_;
  uint64_t taken_ = 0, sequence_ = 0;
  std::atomic<uint64_t> begun_{0};
  std::atomic<bool> taking_{false};
};

}  // namespace pipecodec::ring
