// The tunnel between the codec's two sides: which leaves it carries, and their bits in and out of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "csrc/device/bits.h"

namespace pipecodec::codec {

// The bytes of a tunnel whose leaves take `bytes`. Behind them stands a tail, one byte for each leaf and
// zeros up to the next multiple of 16: in a gradient it says which leaves nobody used. There is none behind a
// lone leaf, which crosses uncopied; of that one a gradient says it in place of its zeros. A tunnel is never
// empty: an engine must have something to send.
uint64_t tunnel_size(const std::vector<device::Span>& spans, uint64_t bytes);

class Tunnel {
 public:
  Tunnel() : Tunnel({}, 0) {}

  // `spans` with room for the gradients: an expanded leaf takes more of it in backward than in forward.
  Tunnel(std::vector<device::Span> spans, uint64_t bytes);

  // The same tunnel for the leaves' gradients, which lie in it as their leaves do, but whole and contiguous
  // where these are expanded.
  Tunnel gradients() const { return {gradient_spans_, gradient_spans_, bytes_, size_}; }

  // A tensor of each leaf's shape and dtype (or an undefined one, for zeros) becomes one float32 1-D tensor
  // on that device. With `reuse` a lone leaf of a multiple of 16 bytes that lies as its span does is not
  // copied, whatever its dtype: the tensor made shares its memory. On the CPU the tail says which were
  // undefined.
  at::Tensor gather(std::span<const at::Tensor> leaves, at::Device where, bool reuse) const;

  // The other way: tensors that are no views, fresh ones unless `reuse` lets such a lone leaf share the
  // buffer's memory. Throws std::invalid_argument for a buffer that is no tunnel, or too short.
  std::vector<at::Tensor> scatter(const at::Tensor& buffer, bool reuse) const;

  // Makes a gradient on the CPU that gather() made for a lone leaf say that nobody used it.
  void mark_unused(const at::Tensor& gradient) const;

  // The indices of the leaves that were undefined in the gradient, on the CPU, that gather() made, as its
  // tail or mark says.
  std::vector<size_t> unused(const at::Tensor& gradient) const;

  bool has_tail() const { return leaves() != 0 && size_ > bytes_; }
  uint64_t bytes() const { return bytes_; }  // of the leaves
  size_t leaves() const { return spans_->size(); }

 private:
  using Spans = std::shared_ptr<const std::vector<device::Span>>;

  Tunnel(Spans spans, Spans gradient_spans, uint64_t bytes, uint64_t size)
      : spans_(std::move(spans)), gradient_spans_(std::move(gradient_spans)), bytes_(bytes), size_(size) {}

  bool lone(const at::Tensor& tensor) const;

  Spans spans_;
  Spans gradient_spans_;
  uint64_t bytes_;
  uint64_t size_;  // with the tail
};

}  // namespace pipecodec::codec
