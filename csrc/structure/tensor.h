// What the structure layer asks of a tensor. The device layer answers (csrc/device/tensor.cpp): no torch
// header here.
#pragma once

#include <cstdint>
#include <span>

#include "csrc/frame/codes.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

struct TensorInfo {
  frame::DType dtype;
  bool requires_grad;
  std::span<const int64_t> shape;  // valid while the tensor is
};

// Throws PythonError where the tensor has no fixed shape to write (a nested tensor).
TensorInfo describe_tensor(PyObject* tensor);

}  // namespace pipecodec::structure
