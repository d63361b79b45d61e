#include "csrc/ring/reader.h"

#include <algorithm>
#include <string>

namespace pipecodec::ring {
namespace {

constexpr int kSpins = 200;  // looks before a sleep, some microseconds

// Lets one thread in.
class Entry {
 public:
  explicit Entry(std::atomic<bool>& taken) : taken_(taken) {
    if (taken_.exchange(true)) throw Error(Error::Kind::Misused, "another thread takes a message");
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry() { taken_.store(false); }

 private:
  std::atomic<bool>& taken_;
};

}  // namespace

// The writer's process is known before the memory is opened, which shows by its secret that it is the right
// one.
Reader::Reader(pid_t writer, int file, uint64_t secret)
    : writer_(Process::of(writer)),
      mapping_(("/proc/" + std::to_string(writer) + "/fd/" + std::to_string(file)).c_str(), secret) {}

Reader::~Reader() { shut(); }

size_t Reader::available() const {
  return mapping_.used(mapping_.control().written.bytes.load(std::memory_order_acquire), taken_);
}

bool Reader::ready() const {
  mapping_.check_owner();
  const Control& control = mapping_.control();
  return available() >= sizeof(Prefix) || control.written.ended.load() != 0 ||
         control.taken.ended.load() != 0;
}

void Reader::wait(Clock::time_point until, const Sleep& sleep) {
  Control& control = mapping_.control();
  const auto ended = [&] { return control.written.ended.load() != 0 || control.taken.ended.load() != 0; };
  for (int i = 0; i < kSpins; ++i) {
    if (available() != 0) return;
    pause();
  }
  while (available() == 0) {
    if (control.taken.ended.load() != 0) throw Error(Error::Kind::Ended, "this side was shut");
    // The last bytes may have come between the first look and the end.
    const bool gone = control.written.ended.load() != 0, dead = writer_.ended();
    if ((gone || dead) && available() == 0) {
      throw Error(Error::Kind::Ended,
                  gone ? "the sender has shut its side" : "the sender's process has ended");
    }
    if (Clock::now() >= until) throw Error(Error::Kind::Late, "no message has come");
    sleep([&] { sleep_on(control.written, [&] { return available() != 0 || ended(); }); });
  }
}

void Reader::get(uint8_t* to, size_t size) {
  mapping_.copy_out(taken_, to, size);
  taken_ += size;
  Count& count = mapping_.control().taken;
  count.bytes.store(taken_, std::memory_order_release);
  tell(count);
}

void Reader::take(const Room& room, Seconds timeout, const Sleep& sleep) {
  mapping_.check_owner();
  const Entry entry(taking_);
  const auto until = after(timeout);
  const auto whole = [&](uint8_t* to, size_t size) {
    while (size != 0) {
      if (available() == 0) wait(until, sleep);
      const size_t now = std::min(available(), size);
      get(to, now);
      to += now;
      size -= now;
    }
  };
  if (mapping_.control().taken.ended.load() != 0) throw Error(Error::Kind::Ended, "this side was shut");
  if (available() == 0) wait(until, sleep);
  ++begun_;
  try {
    Prefix prefix{};
    whole(reinterpret_cast<uint8_t*>(&prefix), sizeof prefix);
    if (prefix.sequence != sequence_ || prefix.size > kMostBytes) {
      throw Error(Error::Kind::Broken, "message " + std::to_string(prefix.sequence) +
                                           " came in the place of " + std::to_string(sequence_));
    }
    ++sequence_;
    whole(room(prefix.size), prefix.size);
  } catch (...) {
    shut();  // where the next message begins is not known
    throw;
  }
}

void Reader::shut() {
  if (mapping_.inherited()) return;
  Control& control = mapping_.control();
  control.taken.ended.store(1);
  wake(control.taken);
  wake(control.written);
}

}  // namespace pipecodec::ring
