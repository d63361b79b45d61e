// The tunnel between the codec's two sides: which leaves it carries, and their bits in and out of it.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "csrc/device/bits.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

class Tunnel {
 public:
  // `spans` with room for the gradients: what is expanded takes more of it in backward than in forward.
  Tunnel(std::vector<device::Span> spans, uint64_t bytes);

  // The same tunnel for the leaves' gradients, which lie in it as their leaves do, but whole and contiguous
  // where these are expanded.
  Tunnel gradients() const { return {gradient_spans_, gradient_spans_, bytes_}; }

  // A sequence of tensors (or None, for zeros), one for each leaf, becomes one float32 1-D tensor on that
  // device. It is never empty: an engine must have something to send. With `reuse` a lone leaf of a
  // multiple of 16 bytes that lies as its span does is not copied, whatever its dtype: the tensor made shares
  // its memory.
  structure::Ref gather(PyObject* tensors, PyObject* device, bool reuse) const;

  // The other way: a tuple of tensors that are no views, fresh ones unless `reuse` lets such a lone leaf
  // share the buffer's memory. Throws PythonError where the buffer is too short.
  structure::Ref scatter(PyObject* buffer, bool reuse) const;

  uint64_t bytes() const { return bytes_; }
  size_t leaves() const { return spans_->size(); }

 private:
  using Spans = std::shared_ptr<const std::vector<device::Span>>;

  Tunnel(Spans spans, Spans gradient_spans, uint64_t bytes)
      : spans_(std::move(spans)), gradient_spans_(std::move(gradient_spans)), bytes_(bytes) {}

  bool lone(const at::Tensor& tensor) const;

  Spans spans_;
  Spans gradient_spans_;
  uint64_t bytes_;
};

}  // namespace pipecodec::codec
