// Stretches of memory to be written: known to the device layer and to its kernels, so without ATen.
#pragma once

#include <stdint.h>

#include <span>
#include <vector>

namespace pipecodec::device {

// `bytes` bytes from `from`, then zeros: `room` bytes at `to` in all. Both are memory of one device, and do
// not overlap.
struct Piece {
  const uint8_t* from;
  uint8_t* to;
  uint64_t bytes;
  uint64_t room;
};

// Bytes that are to stand at a place in a buffer; null where they do already.
struct Placed {
  const uint8_t* from;
  uint64_t place;
  uint64_t bytes;
};

// The pieces that fill `bytes` bytes at `to`, each byte once: what is placed, in order, and zeros between.
inline std::vector<Piece> tile(uint8_t* to, uint64_t bytes, std::span<const Placed> placed) {
  std::vector<Piece> pieces;
  pieces.reserve(placed.size() + 1);
  pieces.push_back({nullptr, to, 0, bytes});
  for (const Placed& each : placed) {
    pieces.back().room = static_cast<uint64_t>(to + each.place - pieces.back().to);
    const uint64_t done = each.from == nullptr ? each.bytes : 0;
    pieces.push_back({each.from, to + each.place + done, each.bytes - done, bytes - each.place - done});
  }
  return pieces;
}

}  // namespace pipecodec::device
