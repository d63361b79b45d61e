// Between a Python tensor and an at::Tensor. The only header of ours that reaches torch's Python binding.
#pragma once

#include <ATen/core/Tensor.h>

#include "csrc/frame/codes.h"
#include "csrc/structure/python.h"

namespace pipecodec::device {

bool is_tensor(PyObject* object);

// `object` must be a tensor; the reference lives as long as it does.
const at::Tensor& unwrap(PyObject* object);

// A new Python object. Throws structure::PythonError.
structure::Ref wrap(at::Tensor&& tensor);

at::Device parse_device(PyObject* device);  // torch.device, str or int

inline at::ScalarType scalar_type(frame::DType dtype) { return static_cast<at::ScalarType>(dtype); }

}  // namespace pipecodec::device
