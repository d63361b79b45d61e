#include "csrc/frame/header.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "csrc/frame/bytes.h"
#include "csrc/frame/xxh64.h"

namespace pipecodec::frame {
namespace {

constexpr size_t kHashAt = 32;
constexpr size_t kChecksumAt = 40;
constexpr size_t kChecksumEnd = kChecksumAt + 8;

template <class T>
void put(uint8_t* frame, size_t at, T value) {
  std::memcpy(frame + at, &value, sizeof(T));
}

void check_zeros(const uint8_t* frame, size_t begin, size_t end, const char* name) {
  if (begin == end ||
      (frame[begin] == 0 && std::memcmp(frame + begin, frame + begin + 1, end - begin - 1) == 0))
    return;
  const uint8_t* const dirty =
      std::find_if(frame + begin, frame + end, [](uint8_t byte) { return byte != 0; });
  throw Error(Reason::Padding, static_cast<size_t>(dirty - frame), std::string(name) + " must be zero");
}

}  // namespace

void seal(Header& header, uint8_t* frame) {
  header.structure_hash = xxh64(frame + header.structure_begin(), header.structure_bytes);
  std::memcpy(frame, kMagic, 4);
  frame[4] = kVersion;
  frame[5] = header.flags;
  put<uint16_t>(frame, 6, 0);
  put(frame, 8, header.used);
  put(frame, 16, header.structure_bytes);
  put(frame, 20, header.shapes_bytes);
  put(frame, 24, header.values_bytes);
  put(frame, 28, header.leaves);
  put(frame, kHashAt, header.structure_hash);
  header.checksum = checksum(header, frame);
  put(frame, kChecksumAt, header.checksum);
}

void check_padding(const uint8_t* frame, size_t begin, size_t end) {
  check_zeros(frame, begin, end, "padding");
}

uint64_t checksum(const Header& header, const uint8_t* frame) {
  // Hashes the bytes behind the field first and puts that hash in the field's place, so that nothing large is
  // copied.
  uint8_t front[kChecksumEnd];
  std::memcpy(front, frame, kChecksumAt);
  const uint64_t rest = xxh64(frame + kChecksumEnd, header.covered() - kChecksumEnd);
  put(front, kChecksumAt, rest);
  return xxh64(front, sizeof(front));
}

Header parse_header(const uint8_t* frame, size_t size) {
  if (size < kHeaderBytes) {
    throw Error(
        Reason::Truncated, size,
        "a frame has a header of " + std::to_string(kHeaderBytes) + " bytes, this one ends before that");
  }
  if (std::memcmp(frame, kMagic, 4) != 0) {
    throw Error(Reason::Magic, 0, "not a pipecodec frame (it does not start with 89 50 43 46)");
  }
  if (frame[4] != kVersion) {
    throw Error(Reason::Version, 4,
                "the frame has format version " + std::to_string(frame[4]) + ", this build reads version " +
                    std::to_string(kVersion) + "; install the same pipecodec on every rank");
  }
  Reader reader(frame, 5, kHeaderBytes);
  Header header;
  header.flags = reader.u8();
  if ((header.flags & ~kPayloadCovered) != 0) throw Error(Reason::Flags, 5, "an unknown flag is set");
  if (reader.fixed<uint16_t>() != 0) throw Error(Reason::Flags, 6, "reserved bytes must be zero");
  header.used = reader.fixed<uint64_t>();
  header.structure_bytes = reader.fixed<uint32_t>();
  header.shapes_bytes = reader.fixed<uint32_t>();
  header.values_bytes = reader.fixed<uint32_t>();
  header.leaves = reader.fixed<uint32_t>();
  header.structure_hash = reader.fixed<uint64_t>();
  header.checksum = reader.fixed<uint64_t>();
  if (header.used > size) {
    throw Error(Reason::Length, 8,
                "the frame says it uses " + std::to_string(header.used) + " bytes, " + std::to_string(size) +
                    " were received");
  }
  if (header.payload_begin() > header.used) {
    throw Error(Reason::Length, 16, "structure, shapes and values are longer than the frame");
  }
  const uint64_t sum = checksum(header, frame);
  if (sum != header.checksum) {
    throw Error(Reason::Checksum, kChecksumAt,
                "the checksum does not match: the frame was changed on its way");
  }
  check_zeros(frame, header.shapes_end(), header.values_begin(), "bytes between shapes and values");
  check_zeros(frame, header.values_end(), header.payload_begin(), "bytes between values and payload");
  check_padding(frame, header.used, size);
  if (xxh64(frame + header.structure_begin(), header.structure_bytes) != header.structure_hash) {
    throw Error(Reason::StructureHash, kHashAt, "the structure hash does not match the structure");
  }
  return header;
}

}  // namespace pipecodec::frame
