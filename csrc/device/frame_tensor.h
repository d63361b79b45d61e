// A frame's bytes as a 1-D uint8 tensor on a device, and back on the host.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace pipecodec::device {

// Makes a tensor of `capacity` bytes: those given, then zeros. The host does not wait.
at::Tensor make_frame(std::span<const uint8_t> bytes, size_t capacity, at::Device device);

// A frame on the host: of a tensor on the CPU its own memory, valid as long as the tensor; otherwise a copy,
// for which the host waits.
struct HostFrame {
  at::Tensor copy;
  const uint8_t* data;
  size_t size;
};

// Why this cannot be a frame, or null.
const char* not_a_frame(const at::Tensor& tensor);

HostFrame read_frame(const at::Tensor& frame);

}  // namespace pipecodec::device
