// The writing end of a ring: messages from one process to another on the same machine, through memory that
// both have mapped. Neither trusts the other: what stands in the memory is checked before it is used.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "csrc/ring/error.h"
#include "csrc/ring/memory.h"
#include "csrc/ring/peer.h"
#include "csrc/ring/waiting.h"

namespace pipecodec::ring {

class Writer {
 public:
  // `most`: bytes of messages that may wait here for room in the memory.
  Writer(size_t capacity, size_t most);
  ~Writer();

  int file() const { return mapping_.file(); }
  uint64_t secret() const { return mapping_.control().secret; }
  void connect(Process reader);

  // Takes a message, made of these parts. It is copied, and the call returns at once, unless more than `most`
  // bytes wait already: then it waits until fewer do. Throws Error, and has taken nothing then.
  void post(std::span<const std::span<const uint8_t>> parts, Seconds timeout);

  // Where the last message ends, in bytes that the reader will have taken then.
  uint64_t posted() const { return posted_.load(); }

  // Waits until the reader has taken all up to `mark`, which `posted` gave. Throws Error where it has not in
  // this time, or never will.
  void wait_taken(uint64_t mark, Seconds timeout);

  // Waits until the memory has taken all messages. Throws Error where it has not in this time, or never will.
  void flush(Seconds timeout);

  // Ends this side: whoever waits here wakes with an error, and the reader sees the end behind the last
  // message.
  void shut();

 private:
  struct Waiting;

  void check() const;              // throws Error where one side was shut, or messages were dropped
  void check_reader(bool always);  // throws Error where the reader's process has ended, by the last look
  size_t room() const;             // throws Error
  void put(const uint8_t* bytes, size_t size);
  void publish();
  void carry();  // the thread that waits for room
  void carry(const std::vector<uint8_t>& message, std::unique_lock<std::mutex>& lock);

  Mapping mapping_;
  const size_t most_;
  uint64_t written_ = 0, sequence_ = 0;
  std::atomic<uint64_t> posted_{0};  // changes under the mutex
  std::unique_ptr<Waiting> waiting_;
};

}  // namespace pipecodec::ring
