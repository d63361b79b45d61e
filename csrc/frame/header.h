// The fixed 48 bytes at the front of a frame, and the checks that need only them: docs/format.md, section 2.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pipecodec::frame {

inline constexpr uint8_t kMagic[4] = {0x89, 'P', 'C', 'F'};
inline constexpr uint8_t kVersion = 2;
inline constexpr uint8_t kPayloadCovered = 0b0000'0001;  // flag: the checksum covers the payload too
inline constexpr size_t kHeaderBytes = 48;

static_assert(sizeof(size_t) >= 8, "sums of three u32 and offsets of u64 must not overflow");

struct Header {
  uint8_t flags = 0;
  uint64_t used = 0;  // bytes of the frame without its padding
  uint32_t structure_bytes = 0;
  uint32_t shapes_bytes = 0;
  uint32_t values_bytes = 0;
  uint32_t leaves = 0;
  uint64_t structure_hash = 0;
  uint64_t checksum = 0;

  size_t structure_begin() const { return kHeaderBytes; }
  size_t structure_end() const { return kHeaderBytes + structure_bytes; }
  size_t shapes_end() const { return structure_end() + shapes_bytes; }
  size_t values_begin() const { return (shapes_end() + 7) / 8 * 8; }
  size_t values_end() const { return values_begin() + values_bytes; }
  size_t payload_begin() const { return (values_end() + 15) / 16 * 16; }
  size_t payload_bytes() const { return used - payload_begin(); }
  size_t covered() const { return (flags & kPayloadCovered) != 0 ? used : payload_begin(); }
};

// Writes the header of a frame whose other bytes are complete, and fills in both hashes.
void seal(Header& header, uint8_t* frame);

// The checksum a frame should have.
uint64_t checksum(const Header& header, const uint8_t* frame);

// Throws Error where padding, the frame's bytes [begin, end), is not zero.
void check_padding(const uint8_t* frame, size_t begin, size_t end);

// Reads the header of a frame of `size` bytes, and checks the frame against it, the structure excepted.
// Throws Error.
Header parse_header(const uint8_t* frame, size_t size);

}  // namespace pipecodec::frame
