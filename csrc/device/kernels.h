// Operations for which a device type has kernels in this build. Each queues its work on the device's current
// stream and does not wait. ATen's operations do everything else.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <span>

#include "csrc/device/copy_region.h"

namespace pipecodec::device {

struct Kernels {
  // No two regions may write to the same byte.
  void (*copy)(at::Device, std::span<const CopyRegion>);

  // Writes bytes from the host, then zeros: `room` bytes in all. The host may change its bytes at once.
  void (*write)(at::Device, std::span<const uint8_t> bytes, uint8_t* to, uint64_t room);

  // Sets the lowest bit of *mismatch_flag if `received` differs from `expected`; otherwise leaves it as it
  // is. All three are memory of the device.
  void (*compare)(at::Device, const uint8_t* expected, const uint8_t* received, uint64_t bytes,
                  uint32_t* mismatch_flag);

  // True while the current stream's work is captured into a graph.
  bool (*capturing)();

  // The most bytes that `write` writes in one launch.
  uint64_t one_launch;
};

// By device type; null for one without kernels. A backend enters its own when its library is loaded. Visible
// to other libraries: the tests' simulated device is one.
[[gnu::visibility("default")]] inline const Kernels* own_kernels[c10::COMPILE_TIME_MAX_DEVICE_TYPES] = {};

inline const Kernels* kernels(at::Device device) { return own_kernels[static_cast<size_t>(device.type())]; }

}  // namespace pipecodec::device
