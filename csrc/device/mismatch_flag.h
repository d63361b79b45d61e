// Comparisons whose outcome stays on the device, where nobody has to wait for it.
#pragma once

#include <ATen/core/Tensor.h>

namespace pipecodec::device {

// Where `received` does not begin with the bytes expected, sets the lowest bit of `mismatch_flag`, one int32,
// and otherwise leaves it as it is. Both bytes are contiguous uint8; all of them are on one device. With
// kernels of ours that is one launch, and may be captured in a graph.
void compare(const at::Tensor& received, const at::Tensor& expected, const at::Tensor& mismatch_flag);

}  // namespace pipecodec::device
