// The first page of a ring's memory: how far its two sides have come; and the numbers before each message.
#pragma once

#include <atomic>
#include <cstdint>

namespace pipecodec::ring {

// A count that one side raises, and on which the other one sleeps.
struct alignas(64) Count {
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint32_t> signal{0};   // a futex
  std::atomic<uint32_t> awaited{0};  // how many threads sleep on it
  std::atomic<uint32_t> ended{0};    // whether it will never be raised again
};

struct Control {
  uint64_t magic = 0, secret = 0, capacity = 0;
  Count written, taken;
};

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

struct Prefix {
  uint64_t size, sequence;
};

constexpr uint64_t kMostBytes = uint64_t{1} << 32;  // of a message

}  // namespace pipecodec::ring
