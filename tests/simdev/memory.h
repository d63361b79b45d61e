// The memory of the simulated device: mapped twice, for the device and, where the host must not touch it,
// without any permission.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <stdexcept>
#include <vector>

namespace simdev {

class Memory {
 public:
  Memory() {
    const int file = memfd_create("simdev", 0);
    if (file < 0 || ftruncate(file, kBytes) != 0) throw std::runtime_error("simdev: no memory");
    device_ = static_cast<uint8_t*>(mmap(nullptr, kBytes, PROT_NONE, MAP_SHARED, file, 0));
    mapped_ = static_cast<uint8_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    close(file);
    if (device_ == MAP_FAILED || mapped_ == MAP_FAILED) throw std::runtime_error("simdev: no memory");
  }

  void* allocate(size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    std::vector<void*>& free = free_[bytes];
    if (!free.empty()) {
      void* const pointer = free.back();
      free.pop_back();
      return pointer;
    }
    if (top_ + bytes > kBytes) throw std::runtime_error("simdev: out of memory");
    void* const pointer = device_ + top_;
    top_ += bytes;
    sizes_[pointer] = bytes;
    return pointer;
  }

  void release(void* pointer) { free_[sizes_.at(pointer)].push_back(pointer); }

  // Where the device, which is code of this process too, reads and writes what has this address.
  uint8_t* on_device(const void* pointer) const {
    const auto* const address = static_cast<const uint8_t*>(pointer);
    if (address < device_ || address >= device_ + kBytes) {
      throw std::runtime_error("simdev: a kernel was given an address of the host");
    }
    return mapped_ + (address - device_);
  }

 private:
  static constexpr size_t kBytes = size_t{1} << 30, kAlignment = 512;

  uint8_t* device_;
  uint8_t* mapped_;
  size_t top_ = 0;
  std::map<size_t, std::vector<void*>> free_;
  std::map<void*, size_t> sizes_;
};

}  // namespace simdev
