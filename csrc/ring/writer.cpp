#include "csrc/ring/writer.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <optional>
#include <thread>

namespace pipecodec::ring {

// What waits for room, and the thread that carries it into the memory.
struct Writer::Waiting {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::vector<uint8_t>> messages;
  size_t bytes = 0;
  std::thread carrier;
  bool carrying = false;
  std::optional<Error> failure;  // why messages were dropped
  Peer reader;
  Clock::time_point looked;  // at whether the reader lives
};

Writer::Writer(size_t capacity, size_t most)
    : mapping_(capacity), most_(most), waiting_(std::make_unique<Waiting>()) {}

Writer::~Writer() {
  if (mapping_.inherited()) {
    // fork copies no threads, and whatever they held or waited on at that moment can never be ended.
    static_cast<void>(waiting_.release());
    return;
  }
  shut();
  if (waiting_->carrier.joinable()) waiting_->carrier.join();
}

void Writer::connect(Process reader) {
  mapping_.check_owner();
  const std::lock_guard lock(waiting_->mutex);
  waiting_->reader = Peer(reader);
}

void Writer::check() const {
  const Control& control = mapping_.control();
  if (control.written.ended.load() != 0) throw Error(Error::Kind::Ended, "this side was shut");
  if (control.taken.ended.load() != 0) throw Error(Error::Kind::Ended, "the receiver has shut its side");
  if (waiting_->failure) throw Error(*waiting_->failure);
}

// Asks the system for it, so not for each message.
void Writer::check_reader(bool always) {
  const Clock::time_point now = Clock::now();
  if (!always && now - waiting_->looked < kLook) return;
  waiting_->looked = now;
  if (waiting_->reader.ended()) throw Error(Error::Kind::Ended, "the receiver's process has ended");
}

size_t Writer::room() const {
  const uint64_t taken = mapping_.control().taken.bytes.load(std::memory_order_acquire);
  return mapping_.capacity() - mapping_.used(written_, taken);
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
  mapping_.check_owner();
  Waiting& waiting = *waiting_;
  std::unique_lock lock(waiting.mutex);
  check();
  size_t size = 0;
  for (const auto& part : parts) size += part.size();
  if (size > kMostBytes) throw Error(Error::Kind::Misused, "a message of more than 4 GiB");
  Prefix prefix{size, sequence_};
  const auto* const head = reinterpret_cast<const uint8_t*>(&prefix);
  check_reader(false);
  if (!waiting.carrying && sizeof prefix + size <= room()) {
    put(head, sizeof prefix);
    for (const auto& part : parts) put(part.data(), part.size());
    publish();
    ++sequence_;
    posted_ += sizeof prefix + size;
    return;
  }
  const auto until = after(timeout);
  while (waiting.bytes != 0 && waiting.bytes + size > most_) {
    check_reader(true);
    if (Clock::now() >= until) throw Error(Error::Kind::Late, "the receiver takes no messages");
    waiting.changed.wait_for(lock, kLook);
    check();
  }
  check_reader(true);           // the thread that carries drops all messages where it has ended
  prefix.sequence = sequence_;  // another thread may have posted meanwhile
  std::vector<uint8_t> message(head, head + sizeof prefix);
  for (const auto& part : parts) message.insert(message.end(), part.begin(), part.end());
  if (!waiting.carrying) {
    if (waiting.carrier.joinable()) waiting.carrier.join();
    waiting.carrier = std::thread([this] { carry(); });  // it begins with the lock
    waiting.carrying = true;
  }
  waiting.bytes += message.size();
  posted_ += message.size();
  waiting.messages.push_back(std::move(message));
  ++sequence_;
}

void Writer::carry() {
  Waiting& waiting = *waiting_;
  std::unique_lock lock(waiting.mutex);
  try {
    while (!waiting.messages.empty()) {
      const std::vector<uint8_t> message = std::move(waiting.messages.front());
      waiting.messages.pop_front();
      lock.unlock();
      carry(message, lock);
      lock.lock();
      waiting.bytes -= message.size();
      waiting.changed.notify_all();
    }
  } catch (const Error& error) {
    if (!lock.owns_lock()) lock.lock();
    waiting.failure = error;
  }
  waiting.messages.clear();
  waiting.bytes = 0;
  waiting.carrying = false;
  waiting.changed.notify_all();
}

// `lock` is open meanwhile, so that others may post.
void Writer::carry(const std::vector<uint8_t>& message, std::unique_lock<std::mutex>& lock) {
  const Control& control = mapping_.control();
  const auto over = [&] { return control.taken.ended.load() != 0 || control.written.ended.load() != 0; };
  for (size_t done = 0; done < message.size();) {
    check();
    const size_t now = std::min(room(), message.size() - done);
    if (now == 0) {
      sleep_on(mapping_.control().taken, [&] { return room() != 0 || over(); });
      if (room() != 0) continue;
      lock.lock();
      check_reader(true);
      lock.unlock();
      continue;
    }
    put(&message[done], now);
    publish();
    done += now;
  }
}

void Writer::wait_taken(uint64_t mark, Seconds timeout) {
  mapping_.check_owner();
  Control& control = mapping_.control();
  const auto taken = [&] { return static_cast<int64_t>(control.taken.bytes.load() - mark) >= 0; };
  const auto ended = [&] { return control.taken.ended.load() != 0 || control.written.ended.load() != 0; };
  const auto until = after(timeout);
  while (!taken()) {
    try {
      const std::lock_guard lock(waiting_->mutex);
      check();
      check_reader(false);
    } catch (const Error&) {
      if (taken()) return;  // before the reader ended
      throw;
    }
    if (Clock::now() >= until) throw Error(Error::Kind::Late, "the receiver takes no messages");
    sleep_on(control.taken, [&] { return taken() || ended(); });
  }
}

void Writer::flush(Seconds timeout) {
  mapping_.check_owner();
  Waiting& waiting = *waiting_;
  std::unique_lock lock(waiting.mutex);
  const auto until = after(timeout);
  while (waiting.carrying) {
    if (Clock::now() >= until) throw Error(Error::Kind::Late, "the receiver takes no messages");
    waiting.changed.wait_for(lock, kLook);
  }
  if (waiting.failure) throw Error(*waiting.failure);
}

void Writer::shut() {
  if (mapping_.inherited()) return;
  Control& control = mapping_.control();
  control.written.ended.store(1);
  wake(control.written);
  wake(control.taken);  // the thread that carries sleeps there
  waiting_->changed.notify_all();
}

}  // namespace pipecodec::ring
