// The facts about a tensor that the structure layer needs. The device layer implements them
// (csrc/device/object.cpp): no torch header here.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "csrc/frame/codes.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

struct TensorInfo {
  frame::DType dtype = frame::DType::UInt8;
  bool requires_grad = false;
  bool nested = false;             // then it has no shape
  std::span<const int64_t> shape;  // valid while the tensor is
};

// The tensor's strides, valid while it is; empty if its layout is not strided.
std::span<const int64_t> strides_of(PyObject* tensor);

// Fills `info`. Returns the reason why a frame cannot describe this tensor, or null.
const char* describe_tensor(PyObject* tensor, TensorInfo& info);

bool is_nested(PyObject* tensor);

// True where the tensor has a storage of its own, unlike a wrapper around other tensors.
bool has_own_memory(PyObject* tensor);

// The name of an attribute set on the tensor that would not arrive; empty where there is none. Names that
// begin with an underscore are ignored: libraries leave notes under them.
std::string extra_attribute(PyObject* tensor);

// True where describe_tensor would give infos[i] for each tensors[i], and none has an extra attribute.
bool all_are(PyObject* const* tensors, std::span<const TensorInfo> infos);

}  // namespace pipecodec::structure
