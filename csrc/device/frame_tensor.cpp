#include "csrc/device/frame_tensor.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include "csrc/device/bits.h"

namespace pipecodec::device {

at::Tensor make_frame(const uint8_t* bytes, size_t used, size_t capacity, at::Device device) {
  const int64_t size = static_cast<int64_t>(capacity);
  // Only CUDA's pinned allocator keeps staging memory alive until the copy on the stream is done.
  at::Tensor host =
      at::detail::empty_cpu({size}, at::kByte, std::nullopt, at::kCPU, device.is_cuda(), std::nullopt);
  auto* const data = static_cast<uint8_t*>(host.mutable_data_ptr());
  std::memcpy(data, bytes, used);
  std::memset(data + used, 0, capacity - used);
  if (device.is_cpu()) return host;
  at::Tensor frame = at::empty({size}, at::TensorOptions().dtype(at::kByte).device(device));
  frame.copy_(host, /*non_blocking=*/device.is_cuda());
  return frame;
}

const char* not_a_frame(const at::Tensor& tensor) {
  if (!has_memory(tensor) || tensor.scalar_type() != at::kByte || tensor.dim() != 1) {
    return "is not a frame: a frame is a 1-D tensor of dtype uint8";
  }
  return nullptr;
}

HostFrame read_frame(const at::Tensor& frame) {
  if (frame.is_cpu() && frame.is_contiguous()) {
    return {{}, static_cast<const uint8_t*>(frame.const_data_ptr()), static_cast<size_t>(frame.numel())};
  }
  const at::Tensor host = frame.cpu().contiguous();
  const auto* const data = static_cast<const uint8_t*>(host.const_data_ptr());
  return {host, data, static_cast<size_t>(host.numel())};
}

}  // namespace pipecodec::device
