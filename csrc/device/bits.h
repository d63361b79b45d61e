// The raw bits of tensors, gathered into one buffer and scattered into fresh tensors again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/frame/codes.h"

namespace pipecodec::device {

// The place of one tensor's bits in a buffer, and their type. Expanded elements are there once.
struct Span {
  frame::DType dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements, see docs/format.md; empty if contiguous
  uint64_t place;                // in bytes
  uint64_t bytes;

  bool expanded() const;
};

// Why the bits of this tensor cannot be sent, or null.
const char* unsendable(const at::Tensor& tensor);

// True where the tensor's elements can be read from its own device's memory: it is not nested, sparse or on
// the meta device, no stand-in of a tracer, a transform or a subclass, and its storage is not emptied.
bool has_memory(const at::Tensor& tensor);

// The tensor detached and contiguous, without lazy conjugation; not a copy if it is contiguous already.
at::Tensor plain(const at::Tensor& tensor);

// A contiguous tensor's elements as 1-D uint8, without a copy.
at::Tensor as_bytes(const at::Tensor& plain);

// True where the tensor has the span's strides, so that its memory holds the span's bytes.
bool lies_as(const at::Tensor& tensor, const Span& span);

// The bytes of such a tensor as 1-D uint8, detached and without a copy.
at::Tensor bytes_in_place(const at::Tensor& tensor, const Span& span);

// The bytes of any tensor of the span's dtype and shape, copied in the span's order into a new 1-D uint8
// tensor.
at::Tensor bytes_alone(const at::Tensor& tensor, const Span& span);

// A tensor over bytes[place, place + size of the tensor), where `place` is a multiple of kAlignment. It is no
// view of `bytes`, and shares their memory if that is aligned for the dtype. Without strides it is
// contiguous.
at::Tensor over_bytes(const at::Tensor& bytes, uint64_t place, frame::DType dtype,
                      std::span<const int64_t> shape, std::span<const int64_t> strides = {});

// Copies the bits of `tensors`, which have the spans' dtypes and shapes and any strides, to their places in a
// new 1-D uint8 tensor; an undefined tensor gives zeros.
at::Tensor gather(std::span<const at::Tensor> tensors, std::span<const Span> spans, uint64_t bytes,
                  at::Device device);

// Copies contiguous `bytes`, not on the CPU, and puts the tensors' bits into the copy from byte `begin` on,
// with zeros between and behind them.
at::Tensor with_bits(const at::Tensor& bytes, uint64_t begin, std::span<const at::Tensor> tensors,
                     std::span<const Span> spans);

// Copies bits out of a contiguous buffer of any dtype into fresh tensors, none of which shares memory with
// it.
std::vector<at::Tensor> scatter(const at::Tensor& buffer, std::span<const Span> spans);

}  // namespace pipecodec::device
