// Memory of the simulated device: mapped twice, for the device and, where the host must not touch it, without
// any permission; and the host's page-locked memory, through which copies go without waiting.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "streams.h"

namespace simdev {

// The points that the streams using a block must reach before it is given to another user.
using Uses = std::vector<Point>;

inline bool over(Streams& streams, const Uses& uses) {
  return std::all_of(uses.begin(), uses.end(), [&](const Point& use) { return streams.reached(use); });
}

// A freed block is reused by allocations on the same stream: at once, unless another stream uses it.
class Memory {
 public:
  explicit Memory(Streams& streams) : streams_(streams) {
    const int file = memfd_create("simdev", 0);
    if (file < 0 || ftruncate(file, kBytes) != 0) throw std::runtime_error("simdev: no memory");
    device_ = static_cast<uint8_t*>(mmap(nullptr, kBytes, PROT_NONE, MAP_SHARED, file, 0));
    mapped_ = static_cast<uint8_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    close(file);
    if (device_ == MAP_FAILED || mapped_ == MAP_FAILED) throw std::runtime_error("simdev: no memory");
  }

  void* allocate(size_t bytes, int64_t stream) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    std::vector<void*>& free = free_[{stream, bytes}];
    std::erase_if(leaving_, [&](void* pointer) {
      const Block& block = blocks_[pointer];
      if (!over(streams_, block.uses)) return false;
      free_[{block.stream, block.bytes}].push_back(pointer);
      return true;
    });
    if (!free.empty()) {
      void* const pointer = free.back();
      free.pop_back();
      return pointer;
    }
    if (top_ + bytes > kBytes) throw std::runtime_error("simdev: out of memory");
    void* const pointer = device_ + top_;
    top_ += bytes;
    blocks_[pointer] = {bytes, stream, {}, {}};
    return pointer;
  }

  void used_on(void* pointer, int64_t stream) { blocks_.at(pointer).used_on.push_back(stream); }

  void release(void* pointer) {
    Block& block = blocks_.at(pointer);
    block.uses.clear();
    for (const int64_t stream : std::exchange(block.used_on, {})) block.uses.push_back(streams_.now(stream));
    leaving_.push_back(pointer);
  }

  // The address in this process through which the device's kernels reach this memory.
  uint8_t* on_device(const void* pointer) const {
    const auto* const address = static_cast<const uint8_t*>(pointer);
    if (address < device_ || address >= device_ + kBytes) {
      throw std::runtime_error("simdev: a kernel was given an address of the host");
    }
    return mapped_ + (address - device_);
  }

 private:
  static constexpr size_t kBytes = size_t{1} << 30, kAlignment = 512;

  struct Block {
    size_t bytes;
    int64_t stream;
    std::vector<int64_t> used_on;
    Uses uses;
  };

  Streams& streams_;
  uint8_t* device_;
  uint8_t* mapped_;
  size_t top_ = 0;
  std::map<std::pair<int64_t, size_t>, std::vector<void*>> free_;
  std::map<void*, Block> blocks_;
  std::vector<void*> leaving_;
};

class PinnedMemory {
 public:
  explicit PinnedMemory(Streams& streams) : streams_(streams) {}

  void* allocate(size_t bytes) {
    void* const pointer = std::malloc(bytes == 0 ? 1 : bytes);
    known_[pointer] = {};
    return pointer;
  }
  bool holds(void* pointer) const { return known_.contains(pointer); }
  void record(void* pointer, int64_t stream) { known_.at(pointer).push_back(streams_.now(stream)); }

  void release(void* pointer) {
    if (!over(streams_, known_.at(pointer))) return;  // never used again, which is simple
    known_.erase(pointer);
    // Not freed while an unrecorded copy may still go there: the copy then counts as an error.
    if (!streams_.delayed()) std::free(pointer);
  }

 private:
  Streams& streams_;
  std::map<void*, Uses> known_;
};

}  // namespace simdev
