// What a kind of device does by kernels of its own, where this build has them. Each queues its work on the
// device's current stream and waits for nothing. Everything else is left to ATen's operations.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <span>

#include "csrc/device/piece.h"

namespace pipecodec::device {

struct Kernels {
  // No two pieces may overlap in what they write.
  void (*copy)(at::Device, std::span<const Piece>);

  // Writes bytes of the host, which may change them at once, then zeros: `room` bytes in all.
  void (*write)(at::Device, std::span<const uint8_t> bytes, uint8_t* to, uint64_t room);

  // Sets the lowest bit of *verdict where `received` is not what is expected; otherwise leaves it as it is.
  // All of them are memory of the device.
  void (*compare)(at::Device, const uint8_t* expected, const uint8_t* received, uint64_t bytes,
                  uint32_t* verdict);

  // Whether the current stream's work is captured into a graph.
  bool (*capturing)();

  // Up to so many bytes of the host cost `write` one launch.
  uint64_t one_launch;
};

// By kind of device, null for one that has none. Each enters its own before anything is done. Seen by other
// libraries: the tests' simulated device is one.
[[gnu::visibility("default")]] inline const Kernels* own_kernels[c10::COMPILE_TIME_MAX_DEVICE_TYPES] = {};

inline const Kernels* kernels(at::Device device) { return own_kernels[static_cast<size_t>(device.type())]; }

}  // namespace pipecodec::device
