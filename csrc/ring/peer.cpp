#include "csrc/ring/peer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <string>

namespace pipecodec::ring {

Process Process::of(pid_t number) {
  const int file = open(("/proc/" + std::to_string(number) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {number, 0};
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
  if (name_end == nullptr || std::sscanf(name_end + 1, kFields, &state, &began) != 2) return {number, 0};
  return {number, state == 'Z' || state == 'X' ? 0 : began};
}

Peer::Peer(Process process) : process_(process) {
#ifdef SYS_pidfd_open
  file_ = static_cast<int>(syscall(SYS_pidfd_open, process.number, 0));
#endif
  if (file_ < 0 || lives()) return;
  close(file_);  // perhaps of another process, which got the number
  file_ = -1;
}

Peer::~Peer() {
  if (file_ >= 0) close(file_);
}

bool Peer::lives() const {
  const uint64_t began = Process::of(process_.number).began;
  return began != 0 && began == process_.began;
}

bool Peer::ended() const {
  if (process_.number == 0) return false;
  if (file_ < 0) return !lives();
  pollfd asked{file_, POLLIN, 0};
  return poll(&asked, 1, 0) > 0;
}

}  // namespace pipecodec::ring
