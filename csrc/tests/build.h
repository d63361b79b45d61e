// Builds frames by hand: valid ones, and ones with one error and a right checksum.
#pragma once

#include <cstring>
#include <utility>
#include <vector>

#include "csrc/frame/bytes.h"
#include "csrc/frame/codes.h"
#include "csrc/frame/header.h"
#include "csrc/frame/layout.h"

namespace pipecodec::frame::testing {

struct Parts {
  std::vector<uint8_t> structure, shapes, values, payload;
  uint32_t leaves = 0;
  uint8_t flags = kPayloadCovered;
  size_t padding = 0;
};

inline std::vector<uint8_t> build(const Parts& parts) {
  Writer writer;
  writer.extend(kHeaderBytes);
  writer.bytes(parts.structure.data(), parts.structure.size());
  writer.bytes(parts.shapes.data(), parts.shapes.size());
  writer.align(8);
  writer.bytes(parts.values.data(), parts.values.size());
  writer.align(kAlignment);
  writer.bytes(parts.payload.data(), parts.payload.size());
  Header header;
  header.flags = parts.flags;
  header.used = writer.size();
  header.structure_bytes = static_cast<uint32_t>(parts.structure.size());
  header.shapes_bytes = static_cast<uint32_t>(parts.shapes.size());
  header.values_bytes = static_cast<uint32_t>(parts.values.size());
  header.leaves = parts.leaves;
  seal(header, writer.data());
  std::vector<uint8_t> frame(writer.data(), writer.data() + writer.size());
  frame.resize(frame.size() + parts.padding);
  return frame;
}

// A frame that holds only this structure.
inline Parts only(std::vector<uint8_t> structure, std::vector<uint8_t> shapes = {}, uint32_t leaves = 0) {
  Parts parts;
  parts.structure = std::move(structure);
  parts.shapes = std::move(shapes);
  parts.leaves = leaves;
  return parts;
}

inline Layout parse(const std::vector<uint8_t>& frame) { return frame::parse(frame.data(), frame.size()); }
inline Layout parse(const Parts& parts) { return parse(build(parts)); }

constexpr uint8_t code(TypeCode type) { return static_cast<uint8_t>(type); }

// [tensor float32 (2, 3) in a slot, 7, {'k': bool tensor (4,) in the payload}, None]
inline Parts example() {
  Parts parts;
  parts.structure = {code(TypeCode::List),
                     4,
                     code(TypeCode::Tensor),
                     6,
                     0b100,
                     2,
                     code(TypeCode::Int),
                     code(TypeCode::Dict),
                     1,
                     code(TypeCode::Str),
                     1,
                     'k',
                     code(TypeCode::Tensor),
                     11,
                     3,
                     1,
                     code(TypeCode::None)};
  parts.shapes = {2, 3, 4};
  parts.values = {7, 0, 0, 0, 0, 0, 0, 0};
  parts.payload = std::vector<uint8_t>(16);
  parts.payload[1] = 1;
  parts.leaves = 2;
  parts.padding = 64;
  return parts;
}

}  // namespace pipecodec::frame::testing
