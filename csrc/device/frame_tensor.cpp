#include "csrc/device/frame_tensor.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include "csrc/device/bits.h"
#include "csrc/device/kernels.h"
#include "csrc/device/transfer.h"
#include "csrc/frame/internal.h"

namespace pipecodec::device {
namespace {

// Not inlined: its size would slow down the path of every frame on the CPU.
[[gnu::noinline]] HostFrame copy_frame(const at::Tensor& frame) {
  const at::Tensor plain = frame.contiguous();
  const at::Tensor host = plain.is_cpu() ? plain : Download(plain).wait();
  const auto* const data = static_cast<const uint8_t*>(host.const_data_ptr());
  return {host, data, static_cast<size_t>(host.numel())};
}

}  // namespace

at::Tensor make_frame(std::span<const uint8_t> bytes, size_t capacity, at::Device device) {
  PIPECODEC_CHECK(bytes.size() <= capacity);
  const int64_t size = static_cast<int64_t>(capacity);
  if (device.is_cpu()) {
    const at::Tensor frame =
        at::detail::empty_cpu({size}, at::kByte, std::nullopt, at::kCPU, std::nullopt, std::nullopt);
    auto* const data = static_cast<uint8_t*>(frame.mutable_data_ptr());
    std::memcpy(data, bytes.data(), bytes.size());
    std::memset(data + bytes.size(), 0, capacity - bytes.size());
    return frame;
  }
  const Kernels* const own = kernels(device);
  if (own != nullptr && (bytes.size() <= own->one_launch || capturing(device))) {
    const at::Tensor frame = at::empty({size}, at::TensorOptions().dtype(at::kByte).device(device));
    own->write(device, bytes, static_cast<uint8_t*>(frame.mutable_data_ptr()), capacity);
    return frame;
  }
  return upload(bytes, capacity, device);
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
  return copy_frame(frame);
}

}  // namespace pipecodec::device
