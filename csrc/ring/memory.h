// The memory of a ring, which has no name: it belongs to two processes alone and is gone when both are.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "csrc/ring/control.h"

namespace pipecodec::ring {

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

  // A forked process has no say in the memory of the one that forked it. Throws Error there.
  bool inherited() const;
  void check_owner() const;

  // How many bytes lie between the two counts, which the other process may have written anything into. Throws
  // Error.
  size_t used(uint64_t written, uint64_t taken) const;

  // At most `capacity` bytes.
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

}  // namespace pipecodec::ring
