// The edges that a tensor's backward pass follows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>

namespace pipecodec::codec {

// Leaves input `index` of the function that made `tensor` out of every backward pass that starts later, as if
// it had not been an input: the graph behind it does not run. (Without a gradient it would: hooks would see
// None, and functions written in Python zeros.)
void leave_out(const at::Tensor& tensor, size_t index);

}  // namespace pipecodec::codec
