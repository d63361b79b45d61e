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

// True while what is queued is not done but recorded, into a graph to be done later and more than once.
bool capturing(at::Device device);

// A new 1-D uint8 tensor of `size` bytes: the host's, which may change them at once, then zeros. Throws while
// that would be captured.
at::Tensor upload(std::span<const uint8_t> bytes, size_t size, at::Device device);

// The tensor's elements, as they lie in the span, as 1-D uint8 on that device. No copy where they lie there
// so already; the host waits for tensors that come from a device to the CPU, and for no others. Throws while
// a copy from the CPU would be captured.
at::Tensor bytes_on(const at::Tensor& tensor, const Span& span, at::Device device);

// A copy of 1-D uint8 on its way to the host.
class Download {
 public:
  explicit Download(const at::Tensor& bytes);  // throws while that would be captured

  bool done();               // without waiting
  const at::Tensor& wait();  // the copy, once it is there; other Python threads run meanwhile

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

// What is queued on the current stream from now on comes after what that one holds by now, and `shared`,
// which was allocated on another one, lasts until the current one is done with it.
void come_after(at::Device device, int64_t stream, std::initializer_list<at::Tensor> shared);

}  // namespace pipecodec::device
