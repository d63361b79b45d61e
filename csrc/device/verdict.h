// Comparisons whose outcome stays on the device, where nobody has to wait for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace pipecodec::device {

// Where `received` (contiguous uint8) does not hold the bytes expected, sets the lowest bit of `verdict`, one
// int32 on the same device, and otherwise leaves it as it is. The host may change its bytes at once.
void compare(const at::Tensor& received, std::span<const uint8_t> expected, const at::Tensor& verdict);
void compare(const at::Tensor& received, const at::Tensor& expected, const at::Tensor& verdict);

}  // namespace pipecodec::device
