// Bytes between the host and a device: through pinned memory, and without waiting, where the device has that.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <optional>
#include <span>

namespace pipecodec::device {

// A new 1-D uint8 tensor of `size` bytes: the host's, which may change them at once, then zeros.
at::Tensor upload(std::span<const uint8_t> bytes, size_t size, at::Device device);

// The tensor's elements in order as 1-D uint8 on that device. No copy where they lie there so already; the
// host waits for tensors that come from a device to the CPU, and for no others.
at::Tensor bytes_on(const at::Tensor& tensor, at::Device device);

// A copy of 1-D uint8 on its way to the host.
class Download {
 public:
  explicit Download(const at::Tensor& bytes);

  bool done();               // without waiting
  const at::Tensor& wait();  // the copy, once it is there

 private:
  at::Tensor host_;
  std::optional<c10::Event> event_;  // after the copy; none where it is known to be done
};

// The stream on which work for a device is queued now. None while it is captured into a graph: what was made
// before may be gone when the graph runs, and what is made now is not there before.
std::optional<int64_t> stream_of_accelerator(at::Device device);
inline std::optional<int64_t> current_stream(at::Device device) {
  return device.is_cpu() ? 0 : stream_of_accelerator(device);
}

}  // namespace pipecodec::device
