#include "csrc/device/transfer.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Winterference-size"  // of a class that is not used here
#endif
#include <ATen/core/CachingHostAllocator.h>

#include <cstring>

#include "csrc/device/bits.h"
#include "csrc/device/kernels.h"

namespace pipecodec::device {
namespace {

// 1-D uint8 in memory that is pinned where there is an allocator for it.
at::Tensor host_bytes(size_t size, at::HostAllocator* pinned) {
  at::Allocator* const allocator = pinned != nullptr ? pinned : c10::GetCPUAllocator();
  return at::detail::empty_generic({static_cast<int64_t>(size)}, allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::CPU), at::kByte, std::nullopt);
}

c10::Stream stream_of(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

bool capturing(at::Device device) {
  const Kernels* const own = kernels(device);
  return own != nullptr && own->capturing(device);
}

}  // namespace

at::Tensor upload(std::span<const uint8_t> bytes, size_t size, at::Device device) {
  // The device first: pinned memory is there once the device is.
  const at::Tensor made =
      at::empty({static_cast<int64_t>(size)}, at::TensorOptions().dtype(at::kByte).device(device));
  at::HostAllocator* const pinned = at::getHostAllocator(device.type());
  const at::Tensor host = host_bytes(size, pinned);
  auto* const data = static_cast<uint8_t*>(host.mutable_data_ptr());
  if (!bytes.empty()) std::memcpy(data, bytes.data(), bytes.size());
  std::memset(data + bytes.size(), 0, size - bytes.size());
  made.copy_(host, /*non_blocking=*/pinned != nullptr);
  // Not every device's copy sees to it that the memory is used for nothing else meanwhile.
  if (pinned != nullptr)
    pinned->record_event(data, host.storage().data_ptr().get_context(), stream_of(device));
  return made;
}

at::Tensor bytes_on(const at::Tensor& tensor, at::Device device) {
  if (tensor.device() == device) return as_bytes(plain(tensor));
  // A graph would copy from the staging memory again, whatever stands there then; a plain copy it refuses.
  if (!tensor.is_cpu() || device.is_cpu() || capturing(device)) return as_bytes(plain(tensor.to(device)));
  const at::Tensor host = plain(tensor);
  return upload({static_cast<const uint8_t*>(host.const_data_ptr()), host.nbytes()}, host.nbytes(), device);
}

Download::Download(const at::Tensor& bytes) {
  at::HostAllocator* const pinned = at::getHostAllocator(bytes.device().type());
  host_ = host_bytes(bytes.nbytes(), pinned);
  host_.copy_(bytes, /*non_blocking=*/pinned != nullptr);
  if (pinned == nullptr) return;
  event_.emplace(bytes.device().type());
  event_->record(stream_of(bytes.device()));
}

bool Download::done() {
  if (event_ && event_->query()) event_.reset();
  return !event_;
}

const at::Tensor& Download::wait() {
  if (event_) event_->synchronize();
  event_.reset();
  return host_;
}

std::optional<int64_t> stream_of_accelerator(at::Device device) {
  if (capturing(device)) return std::nullopt;
  return stream_of(device).id();
}

}  // namespace pipecodec::device
