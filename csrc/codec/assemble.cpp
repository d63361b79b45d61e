#include "csrc/codec/assemble.h"

#include <cstring>
#include <limits>

#include "csrc/codec/errors.h"
#include "csrc/device/transfer.h"
#include "csrc/frame/outline.h"

namespace pipecodec::codec {
namespace {

uint32_t section(size_t bytes) {
  if (bytes > std::numeric_limits<uint32_t>::max()) {
    raise(structure::known().capacity_error,
          "the structure is larger than 4 GiB, which no frame holds; send fewer values");
  }
  return static_cast<uint32_t>(bytes);
}

// Appends all sections but the payload; `frame` holds the structure already.
frame::Header sections(frame::Writer& frame, const structure::Encoder& encoder) {
  frame::Header header;
  header.structure_bytes = section(frame.size() - frame::kHeaderBytes);
  header.shapes_bytes = section(encoder.shapes.size());
  header.values_bytes = section(encoder.values.size());
  header.leaves = section(encoder.leaves.size());
  frame.bytes(encoder.shapes.data(), encoder.shapes.size());
  frame.align(8);
  frame.bytes(encoder.values.data(), encoder.values.size());
  frame.align(frame::kAlignment);
  header.used = frame.size();
  return header;
}

}  // namespace

frame::Header assemble(structure::Encoder& encoder, std::span<const at::Tensor> leaves,
                       std::span<const device::Span> spans, at::Device device) {
  frame::Writer& frame = encoder.structure;
  frame::Header header = sections(frame, encoder);
  if (!device.is_cpu() && !spans.empty()) {
    header.used += spans.back().place + frame::round_up(spans.back().bytes, frame::kAlignment);
    return header;
  }
  header.flags = frame::kPayloadCovered;
  for (size_t i = 0; i < spans.size(); ++i) {
    frame.bytes(device::bytes_on(leaves[i], spans[i], at::kCPU).const_data_ptr(), spans[i].bytes);
    frame.align(frame::kAlignment);
  }
  header.used = frame.size();
  return header;
}

frame::Writer unrouted_frame(const structure::Encoder& encoder) {
  frame::Writer copy;
  copy.extend(frame::kHeaderBytes);
  copy.bytes(encoder.structure.data() + frame::kHeaderBytes, encoder.structure.size() - frame::kHeaderBytes);
  for (const structure::Encoder::Leaf& each : encoder.leaves) {
    copy.data()[each.flags_at] =
        each.strides.empty() ? 0 : static_cast<uint8_t>(frame::Route::RawSlot) | frame::kStridesBit;
  }
  frame::Header header = sections(copy, encoder);
  frame::seal(header, copy.data());
  return copy;
}

std::string path_of(const structure::Encoder& encoder, size_t leaf, const frame::Root& root) {
  const frame::Writer copy = unrouted_frame(encoder);
  return frame::leaf_path(copy.data(), frame::parse(copy.data(), copy.size()), leaf, root);
}

}  // namespace pipecodec::codec
