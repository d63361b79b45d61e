// Between a Python tensor and an at::Tensor. The only header of ours that reaches torch's Python binding.
#pragma once

#include <ATen/core/Tensor.h>

#include "csrc/frame/codes.h"
#include "csrc/frame/layout.h"
#include "csrc/structure/python.h"

namespace pipecodec::device {

bool is_tensor(PyObject* object);

// `object` must be a tensor; the reference lives as long as it does.
const at::Tensor& unwrap(PyObject* object);

// A new Python object. Throws structure::PythonError.
structure::Ref wrap(at::Tensor&& tensor);

at::Device parse_device(PyObject* device);  // torch.device, str or int

inline at::ScalarType scalar_type(frame::DType dtype) { return static_cast<at::ScalarType>(dtype); }

// True where the tensor has this shape. (Comparing IntArrayRefs calls memcmp, which takes longer.)
inline bool has_shape(const at::Tensor& tensor, const int64_t* shape, size_t dims) {
  const at::IntArrayRef sizes = tensor.sizes();
  if (sizes.size() != dims) return false;
  for (size_t i = 0; i < dims; ++i) {
    if (sizes[i] != shape[i]) return false;
  }
  return true;
}

// True where the tensor, as a slot, has the dtype and shape of the leaf.
inline bool fits(const at::Tensor& tensor, const frame::Leaf& leaf, const int64_t* shape) {
  return tensor.scalar_type() == scalar_type(leaf.dtype) && tensor.is_nested() == leaf.nested &&
         (leaf.nested || has_shape(tensor, shape, leaf.dims));
}

// Counts the leading tensors that have the dtypes and shapes of the frame's leaves, all of which are slots.
size_t count_fitting(PyObject* const* tensors, const frame::Layout& layout);

}  // namespace pipecodec::device
