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
// zeros up to the next multiple of 16: in a gradient it marks the unused leaves. A single leaf, which crosses
// uncopied, has no tail; if it is unused, a mark replaces the first of its gradient's zeros. A tunnel is
// never empty: an engine must have something to send.
uint64_t tunnel_size(const std::vector<device::Span>& spans, uint64_t bytes);

class Tunnel {
 public:
  Tunnel() : Tunnel({}, 0) {}

  // `spans` leave room for the gradients: an expanded leaf takes more bytes in backward than in forward.
  Tunnel(std::vector<device::Span> spans, uint64_t bytes);

  // The same tunnel for gradients. A gradient has its leaf's place and strides, but that of an expanded leaf
  // is whole and contiguous.
  Tunnel gradients() const { return {gradient_spans_, gradient_spans_, bytes_, size_}; }

  // Gathers tensors of the leaves' shapes and dtypes (an undefined one gives zeros) into one float32 1-D
  // tensor on that device. With `reuse` a single leaf of a multiple of 16 bytes that has its span's strides
  // is not copied, whatever its dtype: the result shares its memory. On the CPU the tail marks the undefined
  // ones.
  at::Tensor gather(std::span<const at::Tensor> leaves, at::Device where, bool reuse) const;

  // Returns the leaves' tensors, none of them a view. They are new unless `reuse` lets such a single leaf
  // share the buffer's memory. Throws std::invalid_argument for a buffer that is no tunnel, or too short.
  std::vector<at::Tensor> scatter(const at::Tensor& buffer, bool reuse) const;

  // Marks a single leaf as unused in its gradient, which gather() made on the CPU.
  void mark_unused(const at::Tensor& gradient) const;

  // Reads the indices of the unused leaves from the tail or the mark of a gradient on the CPU.
  std::vector<size_t> unused(const at::Tensor& gradient) const;

  bool has_tail() const { return leaves() != 0 && size_ > bytes_; }
  uint64_t bytes() const { return bytes_; }  // of the leaves
  size_t leaves() const { return spans_->size(); }

 private:
  using Spans = std::shared_ptr<const std::vector<device::Span>>;

  Tunnel(Spans spans, Spans gradient_spans, uint64_t bytes, uint64_t size)
      : spans_(std::move(spans)), gradient_spans_(std::move(gradient_spans)), bytes_(bytes), size_(size) {}

  bool single(const at::Tensor& tensor) const;

  Spans spans_;
  Spans gradient_spans_;
  uint64_t bytes_;
  uint64_t size_;  // with the tail
};

}  // namespace pipecodec::codec
