// Mutations behind the checksum: changes a section of a frame, and seals the frame again. Without this every
// input but the seeds would be refused at the checksum.
#include <algorithm>
#include <cstring>
#include <random>

#include "csrc/frame/node.h"
#include "csrc/fuzz/frame_fuzz.h"
#include "csrc/tests/build.h"

using namespace pipecodec::frame;
using testing::Parts;

namespace {

using Bytes = std::vector<uint8_t>;

// The sections, as far as the header's lengths stay inside the input.
Parts take_apart(const uint8_t* data, size_t size) {
  Header header;
  std::memcpy(&header.structure_bytes, data + 16, 4);
  std::memcpy(&header.shapes_bytes, data + 20, 4);
  std::memcpy(&header.values_bytes, data + 24, 4);
  std::memcpy(&header.leaves, data + 28, 4);
  std::memcpy(&header.used, data + 8, 8);
  header.used = std::min<uint64_t>(header.used, size);
  const auto section = [&](size_t begin, size_t end) {
    return Bytes(data + std::min(begin, size), data + std::min(std::max(begin, end), size));
  };
  Parts parts;
  parts.structure = section(header.structure_begin(), header.structure_end());
  parts.shapes = section(header.structure_end(), header.shapes_end());
  parts.values = section(header.values_begin(), header.values_end());
  parts.payload = section(header.payload_begin(), header.used);
  parts.leaves = header.leaves;
  parts.flags = data[5] & kPayloadCovered;
  return parts;
}

void change(Bytes& bytes, size_t room) {
  const size_t size = bytes.size();
  bytes.resize(size + room);
  if (bytes.empty()) return;
  bytes.resize(LLVMFuzzerMutate(bytes.data(), size, bytes.size()));
}

// Sets the header's totals to those of the structure, as far as it can be read: hardly any change keeps them.
void fit(Parts& parts) {
  Header header;
  header.structure_bytes = static_cast<uint32_t>(parts.structure.size());
  header.shapes_bytes = static_cast<uint32_t>(parts.shapes.size());
  const Bytes frame = testing::build(parts);
  NodeReader nodes(frame.data(), header);
  uint64_t values = 0, payload = 0;
  parts.leaves = 0;
  try {
    while (true) {
      const Node node = nodes.next();
      if (node.code == TypeCode::Int || node.code == TypeCode::Float) values += 8;
      if (node.code == TypeCode::Complex) values += 16;
      if (node.code != TypeCode::Tensor) continue;
      ++parts.leaves;
      const uint64_t bytes = node.elements * kDTypes[static_cast<uint8_t>(node.dtype)].bytes;
      if (node.route == Route::Payload) payload += bytes < 4096 ? round_up(bytes, kAlignment) : 0;
    }
  } catch (const Error&) {
    parts.values.resize(values);
    parts.payload.resize(payload);
  }
}

}  // namespace

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed);
  if (size < kHeaderBytes || random() % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
  Parts parts = take_apart(data, size);
  const size_t room = max_size > size ? std::min<size_t>(max_size - size, 64) : 0;
  switch (random() % 8) {
    case 0:
      change(parts.shapes, room);
      break;
    case 1:
      change(parts.values, room);
      break;
    case 2:
      change(parts.payload, room);
      break;
    case 3:
      parts.leaves = static_cast<uint32_t>(random());
      break;
    case 4:
      parts.flags ^= kPayloadCovered;
      break;
    default:
      change(parts.structure, room);
      break;
  }
  if (random() % 4 != 0) fit(parts);
  parts.padding = random() % 4 == 0 ? random() % 64 : 0;
  const Bytes frame = testing::build(parts);
  if (frame.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(frame.begin(), frame.end(), data);
  return frame.size();
}
