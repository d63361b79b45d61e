#pragma once

#include <sys/types.h>

#include <cstdint>
#include <utility>

namespace pipecodec::ring {

// A process of this machine: its number, and when it began, since numbers are given again. In clock ticks
// since the machine's start, as the kernel has it in /proc.
struct Process {
  pid_t number = 0;
  uint64_t began = 0;

  static constexpr uint64_t kEnded = 0, kUnknown = ~uint64_t{0};  // in the place of `began`

  static Process of(pid_t number);
};

// Another process, whose end is noticed.
class Peer {
 public:
  Peer() = default;
  explicit Peer(Process process);
  Peer(Peer&& other) noexcept { swap(other); }
  Peer& operator=(Peer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Peer();

  bool ended() const;

 private:
  bool has_number() const;  // true too where nobody can tell
  void swap(Peer& other) noexcept {
    std::swap(process_, other.process_);
    std::swap(file_, other.file_);
  }

  Process process_;
  int file_ = -1;  // of the process, where the kernel has such files (5.3)
};

}  // namespace pipecodec::ring
