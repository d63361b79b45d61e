// What the structure layer asks of a tensor. The device layer answers (csrc/device/object.cpp): no torch
// header here.
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

// Its strides, valid while it is; none where its elements do not lie in memory by strides.
std::span<const int64_t> strides_of(PyObject* tensor);

// Why a frame cannot describe this tensor, or null.
const char* describe_tensor(PyObject* tensor, TensorInfo& info);

bool is_nested(PyObject* tensor);

// True where the tensor's elements lie in a storage of its own, as those of a wrapper around others do not.
bool has_own_memory(PyObject* tensor);

// The name of an attribute that was set on the tensor and would not arrive; empty where there is none. Names
// that begin with an underscore are notes that libraries make, and do not count.
std::string extra_attribute(PyObject* tensor);

// True where describe_tensor would say infos[i] of each tensors[i], and none has an extra attribute.
bool all_are(PyObject* const* tensors, std::span<const TensorInfo> infos);

}  // namespace pipecodec::structure
