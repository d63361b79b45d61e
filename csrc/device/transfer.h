// Bytes between the host and a device: through pinned memory, and without waiting, where the device has that.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

#include "csrc/device/bits.h"

namespace pipecodec::device {

// True while queued work is not done but recorded into a graph, to be replayed later.
bool capturing(at::Device device);

// Makes a 1-D uint8 tensor of `size` bytes: those given, which the caller may change at once, then zeros.
// Throws during a capture.
at::Tensor upload(std::span<const uint8_t> bytes, size_t size, at::Device device);

// The tensor's elements, in the span's order, as 1-D uint8 on that device; no copy if they are there in that
// order. The host waits only for a copy from a device to the CPU. Throws if a copy from the CPU would be
// captured.
at::Tensor bytes_on(const at::Tensor& tensor, const Span& span, at::Device device);

// A copy of a 1-D uint8 tensor to the host, under way.
class Download {
 public:
  explicit Download(const at::Tensor& bytes);  // throws during a capture

  bool done();               // does not wait
  const at::Tensor& wait();  // returns the copy; other Python threads run meanwhile

 private:
  at::Tensor host_;
  std::optional<c10::Event> event_;  // after the copy; none once that is known to be done
};

// The stream on which work for a device is queued now. None during a capture: a tensor made before it may be
// freed when the graph runs, and one made in it does not exist before.
std::optional<int64_t> stream_of_accelerator(at::Device device);
inline std::optional<int64_t> current_stream(at::Device device) {
  return device.is_cpu() ? 0 : stream_of_accelerator(device);
}

// Orders the current stream's later work after all work that `stream` holds now, and keeps `shared`,
// allocated on another stream, until the current one is done with it.
void wait_stream(at::Device device, int64_t stream, std::initializer_list<at::Tensor> shared);

}  // namespace pipecodec::device
