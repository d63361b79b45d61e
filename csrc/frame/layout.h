// The contents of a valid frame: its leaves, and the tensors that must be beside it. Everything is checked
// before anything is built.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/frame/codes.h"
#include "csrc/frame/header.h"

namespace pipecodec::frame {

struct Leaf {
  DType dtype;
  Route route;
  bool requires_grad;
  bool nested;
  bool strided;  // its strides follow its shape in Layout::shapes; else it is contiguous
  uint32_t dims;
  size_t shape_at;  // into Layout::shapes
  uint64_t elements;
  uint64_t stored;  // of these, those in memory: expanded dimensions are there once
  uint64_t place;   // slot: its index; tunnel, payload: its first byte there

  uint64_t bytes() const { return stored * kDTypes[static_cast<uint8_t>(dtype)].bytes; }
  // The leaf's bytes in a tunnel: all elements, since each has a gradient that comes back there.
  uint64_t room() const { return elements * kDTypes[static_cast<uint8_t>(dtype)].bytes; }
};

struct Layout {
  Header header;
  std::vector<Leaf> leaves;
  std::vector<int64_t> shapes;
  uint64_t nodes = 0;
  uint64_t slots = 0;         // tensors of their own beside the frame
  uint64_t tunnel_bytes = 0;  // a multiple of kAlignment; 0 where nothing is differentiable
  uint64_t payload_bytes = 0;

  std::span<const int64_t> shape(const Leaf& leaf) const {
    return {shapes.data() + leaf.shape_at, leaf.dims};
  }
  // Empty where the leaf is contiguous, or a slot.
  std::span<const int64_t> strides(const Leaf& leaf) const {
    return {shapes.data() + leaf.shape_at + leaf.dims, leaf.strided ? leaf.dims : 0};
  }
};

// Reads and checks the structure behind a checked header, without recursion; memory is bounded by a small
// multiple of the frame's size. Throws Error.
Layout parse_structure(const uint8_t* frame, const Header& header);

// Throws Error where bytes between the payload's leaves are not zero; parse_structure calls it.
void check_payload(const uint8_t* frame, const Layout& layout);

// Reads and checks a whole frame of `size` bytes: parse_header, then parse_structure.
Layout parse(const uint8_t* frame, size_t size);

}  // namespace pipecodec::frame
