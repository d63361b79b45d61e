// What the encoder wrote, put together into the bytes of one frame.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "csrc/device/bits.h"
#include "csrc/frame/header.h"
#include "csrc/frame/outline.h"
#include "csrc/structure/encode.h"

namespace pipecodec::codec {

// Appends shapes, values and payload to encoder.structure, behind the room left for the header, which is
// returned without its hashes: frame::seal writes it. `leaves` are those that travel in the payload, at
// `spans`. A payload that a device has to gather, in a frame for one that is not the CPU, is left out.
frame::Header assemble(structure::Encoder& encoder, std::span<const at::Tensor> leaves,
                       std::span<const device::Span> spans, at::Device device);

// A frame of the value that was just encoded, every leaf a slot, or a raw one where it has strides, and
// nothing in the payload. For messages.
frame::Writer unrouted_frame(const structure::Encoder& encoder);

// Where one leaf stands in the value that was just encoded: outputs[2]['mask']. For messages.
std::string path_of(const structure::Encoder& encoder, size_t leaf, const frame::Root& root);

}  // namespace pipecodec::codec
