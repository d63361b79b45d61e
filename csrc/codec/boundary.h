// One boundary in training: a value becomes tensors that an engine sends and differentiates, and back.
#pragma once

#include "csrc/codec/packer.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

// Returns (tunnel, slots..., frame). A backward pass through the tunnel also reaches `token`, a tensor or
// None.
structure::Ref send(Packer& packer, PyObject* value, PyObject* token, PyObject* device);

// Returns (value, token). Without `reuse` none of the value's tensors shares memory with a received tensor.
// `known` is a copy of the frame on the CPU, or None.
structure::Ref receive(Packer& packer, PyObject* tensors, bool reuse, PyObject* known);

}  // namespace pipecodec::codec
