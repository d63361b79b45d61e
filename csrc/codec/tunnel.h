// The tunnel between the codec's two sides: which leaves it carries, and their bits in and out of it.
#pragma once

#include <vector>

#include "csrc/device/bits.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

class Tunnel {
 public:
  Tunnel(std::vector<device::Span> spans, uint64_t bytes) : spans_(std::move(spans)), bytes_(bytes) {}

  // A sequence of tensors (or None, for zeros), one for each leaf, becomes one float32 1-D tensor on that
  // device. It is never empty: an engine must have something to send. With `reuse` a lone contiguous leaf of
  // a multiple of 16 bytes is not copied, whatever its dtype: the tensor made shares its memory.
  structure::Ref gather(PyObject* tensors, PyObject* device, bool reuse) const;

  // The other way: a tuple of tensors that are no views, fresh ones unless `reuse` lets such a lone leaf
  // share the buffer's memory. Throws PythonError where the buffer is too short.
  structure::Ref scatter(PyObject* buffer, bool reuse) const;

  uint64_t bytes() const { return bytes_; }
  size_t leaves() const { return spans_.size(); }

 private:
  bool lone(const at::Tensor& tensor) const;

  std::vector<device::Span> spans_;
  uint64_t bytes_;
};

}  // namespace pipecodec::codec
