// The raw bits of tensors, gathered into one buffer and scattered into fresh tensors again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/frame/codes.h"

namespace pipecodec::device {

// Where the bits of one tensor stand in a buffer, and their type. Expanded elements stand there once.
struct Span {
  frame::DType dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements, as docs/format.md allows them; none for a contiguous tensor
  uint64_t place;                // in bytes
  uint64_t bytes;

  bool expanded() const;
};

// Why the bits of this tensor cannot be sent, or null.
const char* unsendable(const at::Tensor& tensor);

// True where the tensor's elements lie in memory of its own kind of device, to be read as they are: not
// nested, sparse or on the meta device, no stand-in of a tracer, a transform or a subclass, and its storage
// is there.
bool has_memory(const at::Tensor& tensor);

// The tensor's elements in order, without gradient, lazy conjugation or gaps: itself where it is so already.
at::Tensor plain(const at::Tensor& tensor);

// A contiguous tensor's elements as 1-D uint8, without a copy.
at::Tensor as_bytes(const at::Tensor& plain);

// True where the tensor's elements lie in memory as those of the span do, so that its bytes are the span's.
bool lies_as(const at::Tensor& tensor, const Span& span);

// The bytes of such a tensor as 1-D uint8, without a copy, its gradient or its shape.
at::Tensor bytes_in_place(const at::Tensor& tensor, const Span& span);

// The bytes of any tensor of the span's dtype and shape, put into the span's order in a new 1-D uint8 tensor.
at::Tensor bytes_alone(const at::Tensor& tensor, const Span& span);

// A tensor over bytes[place, place + size of the tensor), where `place` is a multiple of kAlignment. It is no
// view of them, and shares their memory unless that is not aligned for the dtype. It is contiguous where no
// strides are given.
at::Tensor over_bytes(const at::Tensor& bytes, uint64_t place, frame::DType dtype,
                      std::span<const int64_t> shape, std::span<const int64_t> strides = {});

// Copies the bits of `tensors`, of the spans' dtypes and shapes and with any strides, to their places in a
// new 1-D uint8 tensor; an undefined tensor gives zeros.
at::Tensor gather(std::span<const at::Tensor> tensors, std::span<const Span> spans, uint64_t bytes,
                  at::Device device);

// A copy of contiguous `bytes`, not on the CPU, with the tensors' bits in it from byte `begin` on, and zeros
// between and behind them.
at::Tensor with_bits(const at::Tensor& bytes, uint64_t begin, std::span<const at::Tensor> tensors,
                     std::span<const Span> spans);

// Copies bits out of a contiguous buffer of any dtype into fresh tensors, none of which shares memory with
// it.
std::vector<at::Tensor> scatter(const at::Tensor& buffer, std::span<const Span> spans);

}  // namespace pipecodec::device
