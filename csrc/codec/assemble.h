// Joins the encoder's sections into the bytes of one frame.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "csrc/device/bits.h"
#include "csrc/frame/header.h"
#include "csrc/frame/outline.h"
#include "csrc/structure/encode.h"

namespace pipecodec::codec {

// Appends shapes, values and payload to encoder.structure. Returns the header without its hashes; frame::seal
// writes it into the space left in front. `leaves` are the payload's leaves, placed at `spans`. Where
// `device` is not the CPU, the payload is left out: the device adds it.
frame::Header assemble(structure::Encoder& encoder, std::span<const at::Tensor> leaves,
                       std::span<const device::Span> spans, at::Device device);

// A frame of the value just encoded, for messages: every leaf is a slot, or a raw slot if it has strides, and
// the payload is empty.
frame::Writer unrouted_frame(const structure::Encoder& encoder);

// The path of one leaf in the value just encoded, for messages: outputs[2]['mask'].
std::string path_of(const structure::Encoder& encoder, size_t leaf, const frame::Root& root);

}  // namespace pipecodec::codec
