// Regions of memory to be written. Shared by the device layer and its kernels, so without ATen.
#pragma once

#include <stdint.h>

#include <span>
#include <vector>

namespace pipecodec::device {

// `bytes` bytes from `from`, then zeros: `room` bytes at `to` in all. Both are on one device, and do not
// overlap.
struct CopyRegion {
  const uint8_t* from;
  uint8_t* to;
  uint64_t bytes;
  uint64_t room;
};

// Bytes to be copied to a place in a buffer; `from` is null if they are there already.
struct Placed {
  const uint8_t* from;
  uint64_t place;
  uint64_t bytes;
};

// The regions that fill `bytes` bytes at `to`, each byte once: the regions of `placed`, in order, and zeros
// between.
inline std::vector<CopyRegion> cover(uint8_t* to, uint64_t bytes, std::span<const Placed> placed) {
  std::vector<CopyRegion> regions;
  regions.reserve(placed.size() + 1);
  regions.push_back({nullptr, to, 0, bytes});
  for (const Placed& each : placed) {
    regions.back().room = static_cast<uint64_t>(to + each.place - regions.back().to);
    const uint64_t done = each.from == nullptr ? each.bytes : 0;
    regions.push_back({each.from, to + each.place + done, each.bytes - done, bytes - each.place - done});
  }
  return regions;
}

}  // namespace pipecodec::device
