#include "csrc/ring/peer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

namespace pipecodec::ring {

Process Process::of(pid_t number) {
  const int file = open(("/proc/" + std::to_string(number) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {  // there is none, or this process has no file left, or sees no /proc
    const bool none = kill(number, 0) != 0 && errno == ESRCH;
    return {number, none ? kEnded : kUnknown};
  }
  std::array<char, 1024> text{};
  const ssize_t size = read(file, text.data(), text.size() - 1);
  close(file);
  // The second field is the program's name, in which anything may stand; the third is the state, the 22nd is
  // it.
  const char* const name_end = size > 0 ? std::strrchr(text.data(), ')') : nullptr;
  char state = 'X';
  unsigned long long began = 0;
  constexpr const char* kFields =
      " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu";
  if (name_end == nullptr || std::sscanf(name_end + 1, kFields, &state, &began) != 2) {
    return {number, kUnknown};
  }
  return {number, state == 'Z' || state == 'X' ? kEnded : began};
}

Peer::Peer(Process process) : process_(process) {
#ifdef SYS_pidfd_open
  file_ = static_cast<int>(syscall(SYS_pidfd_open, process.number, 0));
#endif
  if (file_ < 0 || has_number()) return;
  close(file_);  // perhaps of another process, which got the number
  file_ = -1;
}

Peer::~Peer() {
  if (file_ >= 0) close(file_);
}

bool Peer::has_number() const {
  const uint64_t began = Process::of(process_.number).began;
  if (began == Process::kEnded || process_.began == Process::kEnded) return false;
  return began == process_.began || began == Process::kUnknown || process_.began == Process::kUnknown;
}

bool Peer::ended() const {
  if (process_.number == 0) return false;
  if (file_ < 0) return !has_number();
  pollfd asked{file_, POLLIN, 0};
  return poll(&asked, 1, 0) > 0;
}

}  // namespace pipecodec::ring
