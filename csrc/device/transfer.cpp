#include "csrc/device/transfer.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Winterference-size"  // in a class that is not used here
#endif
#include <ATen/core/CachingHostAllocator.h>

#include <cstring>
#include <stdexcept>

#include "csrc/device/bits.h"
#include "csrc/device/torch_version.h"
#include "csrc/frame/internal.h"
#include "csrc/structure/python.h"

namespace pipecodec::device {
namespace {

// 1-D uint8, in pinned memory if there is an allocator for it.
at::Tensor host_bytes(size_t size, at::HostAllocator* pinned) {
  at::Allocator* const allocator = pinned != nullptr ? pinned : c10::GetCPUAllocator();
  return at::detail::empty_generic({static_cast<int64_t>(size)}, allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::CPU), at::kByte, std::nullopt);
}

c10::Stream stream_of(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// Keeps pinned memory from being used again until a queued copy to or from it is done. Not every device's
// copy sees to that.
void keep_until_copied(const at::Tensor& host, at::HostAllocator* pinned, at::Device device) {
  const c10::DataPtr& memory = host.storage().data_ptr();
  pinned->record_event(memory.get(), memory.get_context(), stream_of(device));
}

}  // namespace

bool capturing(at::Device device) { return is_capturing(stream_of(device)); }

at::Tensor upload(std::span<const uint8_t> bytes, size_t size, at::Device device) {
  PIPECODEC_CHECK(bytes.size() <= size);
  if (capturing(device)) {
    throw std::runtime_error(
        "while a graph is captured nothing can be copied from the host: a replay would copy the same memory "
        "again, with other contents. Have all tensors on the device, and pipecodec built with its kernels "
        "for it (PIPECODEC_CUDA=1)");
  }
  // Allocates on the device first, since pinned memory is available only after that.
  const at::Tensor made =
      at::empty({static_cast<int64_t>(size)}, at::TensorOptions().dtype(at::kByte).device(device));
  at::HostAllocator* const pinned = at::getHostAllocator(device.type());
  const at::Tensor host = host_bytes(size, pinned);
  auto* const data = static_cast<uint8_t*>(host.mutable_data_ptr());
  if (!bytes.empty()) std::memcpy(data, bytes.data(), bytes.size());
  std::memset(data + bytes.size(), 0, size - bytes.size());
  made.copy_(host, /*non_blocking=*/pinned != nullptr);
  if (pinned != nullptr) keep_until_copied(host, pinned, device);
  return made;
}

at::Tensor bytes_on(const at::Tensor& tensor, const Span& span, at::Device device) {
  const at::Tensor host = lies_as(tensor, span) ? bytes_in_place(tensor, span) : bytes_alone(tensor, span);
  if (host.device() == device) return host;
  if (!host.is_cpu() || device.is_cpu()) return host.to(device);
  return upload({static_cast<const uint8_t*>(host.const_data_ptr()), host.nbytes()}, host.nbytes(), device);
}

Download::Download(const at::Tensor& bytes) {
  if (bytes.is_cpu()) {
    host_ = bytes.clone();
    return;
  }
  if (capturing(bytes.device())) {
    throw std::runtime_error(
        "while a graph is captured no frame can be read or checked, for which the host has to wait: unpack "
        "and check() one of the same structure before, whose numbers, if it has any, are values=\"static\"");
  }
  at::HostAllocator* const pinned = at::getHostAllocator(bytes.device().type());
  host_ = host_bytes(bytes.nbytes(), pinned);
  host_.copy_(bytes, /*non_blocking=*/pinned != nullptr);
  if (pinned == nullptr) return;
  keep_until_copied(host_, pinned, bytes.device());
  event_.emplace(bytes.device().type());
  event_->record(stream_of(bytes.device()));
}

bool Download::done() {
  if (event_ && event_->query()) event_.reset();
  return !event_;
}

const at::Tensor& Download::wait() {
  if (event_) {
    const structure::Unlocked others;  // the sender may be one of these threads
    event_->synchronize();
  }
  event_.reset();
  return host_;
}

std::optional<int64_t> stream_of_accelerator(at::Device device) {
  if (capturing(device)) return std::nullopt;
  return stream_of(device).id();
}

void wait_stream(at::Device device, int64_t stream, std::initializer_list<at::Tensor> shared) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Stream current = guard.getStream(device);
  c10::Event event(device.type());
  event.record(c10::Stream(c10::Stream::UNSAFE, device, stream));
  event.block(current);
  for (const at::Tensor& tensor : shared) guard.recordDataPtrOnStream(tensor.storage().data_ptr(), current);
}

}  // namespace pipecodec::device
