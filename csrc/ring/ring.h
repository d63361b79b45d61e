// Messages from one process to another on the same machine, through memory that both have mapped.
//
// The memory has no name: it belongs to the two processes alone and is gone when both are. One thread writes,
// one reads. Neither trusts the other: what stands in the memory is checked before it is used.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace pipecodec::ring {

using Seconds = std::chrono::duration<double>;

struct Error : std::runtime_error {
  enum class Kind {
    Ended,    // the other side, or this one, ended the communication
    Late,     // the time was up
    Broken,   // the memory holds no message, or another one than the next
    Missing,  // there is no such memory here
  };
  Error(Kind of, const std::string& text) : std::runtime_error(text), kind(of) {}
  Kind kind;
};

struct Control;

// The memory, mapped.
class Mapping {
 public:
  explicit Mapping(size_t capacity);           // new memory, for so many bytes of messages
  Mapping(const char* path, uint64_t secret);  // memory of another process. Throws Error.
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  int file() const { return file_; }
  Control& control() const { return *control_; }
  size_t capacity() const { return capacity_; }

  bool inherited() const;  // true in a forked process, which has no say in the memory

  void copy_in(uint64_t at, const uint8_t* from, size_t size) const;
  void copy_out(uint64_t at, uint8_t* to, size_t size) const;

 private:
  void map(size_t size);

  pid_t owner_ = 0;
  int file_ = -1;
  Control* control_ = nullptr;
  uint8_t* bytes_ = nullptr;
  size_t mapped_ = 0, capacity_ = 0;
};

// Another process, whose end is noticed.
class Peer {
 public:
  Peer() = default;
  explicit Peer(pid_t process);
  Peer(Peer&& other) noexcept;
  Peer& operator=(Peer&& other) noexcept;
  ~Peer();
  bool ended() const;

 private:
  pid_t process_ = 0;
  int file_ = -1;
};

class Writer {
 public:
  // `most`: bytes of messages that may wait here for room in the memory.
  Writer(size_t capacity, size_t most);
  ~Writer();

  int file() const { return mapping_.file(); }
  uint64_t secret() const;
  void connect(pid_t reader);

  // Takes a message, made of these parts. It is copied, and the call returns at once, unless more than `most`
  // bytes wait already: then it waits until fewer do. Throws Error.
  void post(std::span<const std::span<const uint8_t>> parts, Seconds timeout);

  // Waits until the memory has taken all messages. Returns false where it has not in this time, or never
  // will.
  bool flush(Seconds timeout);

  // Ends this side: whoever waits here wakes with an error, and the reader sees the end behind the last
  // message.
  void shut();

 private:
  void check() const;              // throws Error where one side was shut
  void check_reader(bool always);  // throws Error where the reader's process has ended, by the last look
  bool fits(size_t size) const;
  void put(const uint8_t* bytes, size_t size);
  void publish();
  void carry();  // the thread that waits for room

  Mapping mapping_;
  size_t most_;
  Peer reader_;
  std::chrono::steady_clock::time_point looked_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<uint8_t>> waiting_;
  size_t waiting_bytes_ = 0;
  uint64_t written_ = 0, sequence_ = 0;
  std::thread carrier_;
  bool carrying_ = false;
};

class Reader {
 public:
  // The memory that process `writer` has open as `file`. Throws Error.
  Reader(pid_t writer, int file, uint64_t secret);
  ~Reader();

  // True where the next message, or the end, is there.
  bool ready() const;

  bool writer_ended() const { return writer_.ended(); }

  // Waits until it is, or this time has passed.
  void await(Seconds timeout);

  using Room = std::function<uint8_t*(size_t)>;
  using Unlocked = std::function<void(const std::function<void()>&)>;

  // Takes the next message; `room(size)` gives the memory for it. `unlocked` runs its argument, which may
  // wait. Throws Error.
  void take(const Room& room, Seconds timeout, const Unlocked& unlocked);

  void shut();

 private:
  void take_begun(const Room& room, std::chrono::steady_clock::time_point until, const Unlocked& unlocked);
  size_t available() const;
  void wait(std::chrono::steady_clock::time_point until);  // for more bytes
  void get(uint8_t* to, size_t size, std::chrono::steady_clock::time_point until);

  Mapping mapping_;
  Peer writer_;
  uint64_t taken_ = 0, sequence_ = 0;
};

}  // namespace pipecodec::ring
