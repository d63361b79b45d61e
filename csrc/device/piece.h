// One stretch of memory to be written: known to the device layer and to its kernels, so without ATen.
#pragma once

#include <stdint.h>

namespace pipecodec::device {

// `bytes` bytes from `from`, then zeros: `room` bytes at `to` in all. Both are memory of one device, and do
// not overlap.
struct Piece {
  const uint8_t* from;
  uint8_t* to;
  uint64_t bytes;
  uint64_t room;
};

}  // namespace pipecodec::device
