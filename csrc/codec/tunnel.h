// The tunnel between the codec's two sides: which leaves it carries, and their bits in and out of it.
#pragma once

#include <vector>

#include "csrc/device/bits.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

// The bytes of a tunnel whose leaves take `bytes`. Behind them stands a tail, one byte for each leaf and
// zeros up to the next multiple of 16: in a gradient it says which leaves nobody used. There is none behind a
// lone leaf, which crosses uncopied. A tunnel is never empty: an engine must have something to send.
uint64_t tunnel_size(const std::vector<device::Span>& spans, uint64_t bytes);

class Tunnel {
 public:
  Tunnel(std::vector<device::Span> spans, uint64_t bytes) : spans_(std::move(spans)), bytes_(bytes) {}

  // A sequence of tensors (or None, for zeros), one for each leaf, becomes one float32 1-D tensor on that
  // device. With `reuse` a lone contiguous leaf of a multiple of 16 bytes is not copied, whatever its dtype:
  // the tensor made shares its memory. On the CPU the tail says for which leaves there was None.
  structure::Ref gather(PyObject* tensors, PyObject* device, bool reuse) const;

  // The other way: a tuple of tensors that are no views, fresh ones unless `reuse` lets such a lone leaf
  // share the buffer's memory. Throws PythonError where the buffer is too short.
  structure::Ref scatter(PyObject* buffer, bool reuse) const;

  // The indices of the leaves for which there was None in the gradient that gather() made, as its tail says.
  structure::Ref unused(PyObject* gradient) const;

  bool has_tail() const { return !spans_.empty() && tunnel_size(spans_, bytes_) > bytes_; }
  uint64_t bytes() const { return bytes_; }  // of the leaves
  size_t leaves() const { return spans_.size(); }

 private:
  const at::Tensor& checked(PyObject* buffer, uint64_t bytes) const;
  bool lone(const at::Tensor& tensor) const;

  std::vector<device::Span> spans_;
  uint64_t bytes_;
};

}  // namespace pipecodec::codec
