#include "csrc/ring/ring.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>

#include "csrc/ring/control.h"

namespace pipecodec::ring {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLook =
    std::chrono::milliseconds(100);             // between two looks at whether the other process lives
constexpr int kSpins = 200;                     // looks before a sleep, some microseconds
constexpr size_t kMostBytes = size_t{1} << 32;  // of a message

struct Prefix {
  uint64_t size, sequence;
};

Clock::time_point after(Seconds timeout) {
  const auto most = std::chrono::hours(24 * 365);
  return Clock::now() +
         (!(timeout < most) ? Clock::duration(most) : std::chrono::duration_cast<Clock::duration>(timeout));
}

void wake(Count& count) {
  count.signal.fetch_add(1);
  syscall(SYS_futex, &count.signal, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// Lets whoever sleeps on the count look at it, after it was raised.
void tell(Count& count) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (count.awaited.load(std::memory_order_relaxed) != 0) wake(count);
}

// Sleeps until the count is raised, or a moment. `raised` says whether it has been already.
template <class Raised>
void sleep_on(Count& count, Raised raised) {
  const uint32_t seen = count.signal.load();
  count.awaited.store(1);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!raised()) {
    const timespec most{0, std::chrono::nanoseconds(kLook).count()};
    syscall(SYS_futex, &count.signal, FUTEX_WAIT, seen, &most, nullptr, 0);
  }
  count.awaited.store(0, std::memory_order_relaxed);
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Writer::Writer(size_t capacity, size_t most) : mapping_(capacity), most_(most) {}

Writer::~Writer() {
  shut();
  if (!carrier_.joinable()) return;
  if (mapping_.inherited()) {
    carrier_.detach();  // fork copies no threads
  } else {
    carrier_.join();
  }
}

uint64_t Writer::secret() const { return mapping_.control().secret; }

void Writer::connect(pid_t reader) {
  const std::lock_guard lock(mutex_);
  reader_ = Peer(reader);
}

void Writer::check() const {
  const Control& control = mapping_.control();
  if (control.written.ended.load() != 0) throw Error(Error::Kind::Ended, "this side was shut");
  if (control.taken.ended.load() != 0) throw Error(Error::Kind::Ended, "the receiver has shut its side");
}

// Asks the system for it, so not for each message.
void Writer::check_reader(bool always) {
  const Clock::time_point now = Clock::now();
  if (!always && now - looked_ < kLook) return;
  looked_ = now;
  if (reader_.ended()) throw Error(Error::Kind::Ended, "the receiver's process has ended");
}

bool Writer::fits(size_t size) const {
  return written_ + size - mapping_.control().taken.bytes.load(std::memory_order_acquire) <=
         mapping_.capacity();
}

void Writer::put(const uint8_t* bytes, size_t size) {
  mapping_.copy_in(written_, bytes, size);
  written_ += size;
}

void Writer::publish() {
  Count& count = mapping_.control().written;
  count.bytes.store(written_, std::memory_order_release);
  tell(count);
}

void Writer::post(std::span<const std::span<const uint8_t>> parts, Seconds timeout) {
  std::unique_lock lock(mutex_);
  check();
  size_t size = 0;
  for (const auto& part : parts) size += part.size();
  if (size > kMostBytes) throw Error(Error::Kind::Broken, "a message of more than 4 GiB");
  Prefix prefix{size, sequence_};
  const auto* const head = reinterpret_cast<const uint8_t*>(&prefix);
  check_reader(false);
  if (!carrying_ && fits(sizeof prefix + size)) {
    put(head, sizeof prefix);
    for (const auto& part : parts) put(part.data(), part.size());
    publish();
    ++sequence_;
    return;
  }
  const auto until = after(timeout);
  while (waiting_bytes_ != 0 && waiting_bytes_ + size > most_) {
    check_reader(true);
    if (Clock::now() >= until) throw Error(Error::Kind::Late, "the receiver takes no messages");
    changed_.wait_for(lock, kLook);
    check();
  }
  check_reader(true);           // the thread that carries drops all messages where it has ended
  prefix.sequence = sequence_;  // another thread may have posted meanwhile
  std::vector<uint8_t> message(head, head + sizeof prefix);
  for (const auto& part : parts) message.insert(message.end(), part.begin(), part.end());
  waiting_bytes_ += message.size();
  waiting_.push_back(std::move(message));
  ++sequence_;
  if (carrying_) return;
  if (carrier_.joinable()) carrier_.join();
  carrying_ = true;
  carrier_ = std::thread([this] { carry(); });
}

void Writer::carry() {
  Count &taken = mapping_.control().taken, &written = mapping_.control().written;
  const auto over = [&] { return taken.ended.load() != 0 || written.ended.load() != 0; };
  std::unique_lock lock(mutex_);
  while (!waiting_.empty() && !over() && !reader_.ended()) {
    const std::vector<uint8_t> message = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    for (size_t done = 0; done < message.size() && !over();) {
      const auto room = [&] {
        const uint64_t used = written_ - taken.bytes.load(std::memory_order_acquire);
        return used > mapping_.capacity() ? 0 : mapping_.capacity() - used;
      };
      const size_t now = std::min(room(), message.size() - done);
      if (now == 0) {
        sleep_on(taken, [&] { return room() != 0 || over(); });
        if (room() == 0 && reader_.ended()) break;
        continue;
      }
      put(&message[done], now);
      publish();
      done += now;
    }
    lock.lock();
    waiting_bytes_ -= message.size();
    changed_.notify_all();
  }
  waiting_.clear();
  waiting_bytes_ = 0;
  carrying_ = false;
  changed_.notify_all();
}

bool Writer::flush(Seconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return !carrying_; });
  return !carrying_ && mapping_.control().taken.ended.load() == 0;
}

void Writer::shut() {
  if (mapping_.inherited()) return;
  Control& control = mapping_.control();
  control.written.ended.store(1);
  wake(control.written);
  wake(control.taken);  // the thread that carries sleeps there
  changed_.notify_all();
}

Reader::Reader(pid_t writer, int file, uint64_t secret)
    : mapping_(("/proc/" + std::to_string(writer) + "/fd/" + std::to_string(file)).c_str(), secret),
      writer_(writer) {}

Reader::~Reader() { shut(); }

size_t Reader::available() const {
  const uint64_t there = mapping_.control().written.bytes.load(std::memory_order_acquire) - taken_;
  if (there > mapping_.capacity()) throw Error(Error::Kind::Broken, "the ring's memory was written to");
  return there;
}

bool Reader::ready() const {
  const Control& control = mapping_.control();
  return available() >= sizeof(Prefix) || control.written.ended.load() != 0 ||
         control.taken.ended.load() != 0;
}

void Reader::await(Seconds timeout) {
  Count& count = mapping_.control().written;
  const auto until = after(timeout);
  for (int i = 0; i < kSpins && !ready(); ++i) pause();
  while (!ready() && !writer_.ended() && Clock::now() < until) {
    sleep_on(count, [&] { return ready(); });
  }
}

void Reader::wait(Clock::time_point until) {
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
    sleep_on(control.written, [&] { return available() != 0 || ended(); });
  }
}

void Reader::get(uint8_t* to, size_t size, Clock::time_point until) {
  Count& count = mapping_.control().taken;
  while (size != 0) {
    if (available() == 0) wait(until);
    const size_t now = std::min(available(), size);
    mapping_.copy_out(taken_, to, now);
    taken_ += now;
    count.bytes.store(taken_, std::memory_order_release);
    tell(count);
    to += now;
    size -= now;
  }
}

void Reader::take(const Room& room, Seconds timeout, const Unlocked& unlocked) {
  const auto until = after(timeout);
  if (mapping_.control().taken.ended.load() != 0) throw Error(Error::Kind::Ended, "this side was shut");
  if (available() < sizeof(Prefix)) unlocked([&] { wait(until); });
  try {
    take_begun(room, until, unlocked);
  } catch (...) {
    shut();  // where the next message begins is not known
    throw;
  }
}

void Reader::take_begun(const Room& room, Clock::time_point until, const Unlocked& unlocked) {
  Prefix prefix{};
  get(reinterpret_cast<uint8_t*>(&prefix), sizeof prefix, until);
  if (prefix.sequence != sequence_ || prefix.size > kMostBytes) {
    throw Error(Error::Kind::Broken, "message " + std::to_string(prefix.sequence) + " came in the place of " +
                                         std::to_string(sequence_));
  }
  ++sequence_;
  uint8_t* const to = room(prefix.size);
  if (prefix.size <= available()) return get(to, prefix.size, until);
  unlocked([&] { get(to, prefix.size, until); });
}

void Reader::shut() {
  if (mapping_.inherited()) return;
  Control& control = mapping_.control();
  control.taken.ended.store(1);
  wake(control.taken);
  wake(control.written);
}

}  // namespace pipecodec::ring
