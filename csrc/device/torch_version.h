// The only place that knows how torch's versions, from 2.8 on, differ for this project.
#pragma once

#include <c10/core/Stream.h>
#include <torch/csrc/autograd/function.h>
#include <torch/version.h>

#include <memory>
#include <type_traits>
#include <utility>

#include "csrc/device/kernels.h"

#define PIPECODEC_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) || (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

namespace pipecodec::device {

// True while the work of the stream, the device's current one, is captured into a graph. Before 2.12 torch
// could tell that for CUDA only.
inline bool is_capturing(const c10::Stream& stream) {
#if PIPECODEC_TORCH_AT_LEAST(2, 12)
  return stream.is_capturing();
#else
  const Kernels* const own = kernels(stream.device());
  return own != nullptr && own->capturing();
#endif
}

// Autograd's pointer to a node: std::shared_ptr in older versions, intrusive in newer ones.
using NodePtr = decltype(torch::autograd::Edge::function);

template <class Made, class... Arguments>
auto make_node(Arguments&&... arguments) {
  if constexpr (std::is_same_v<NodePtr, std::shared_ptr<torch::autograd::Node>>) {
    // deleteNode, found by lookup where torch has it, frees long graphs in a loop instead of by recursion.
    return std::shared_ptr<Made>(new Made(std::forward<Arguments>(arguments)...),
                                 [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Made>(std::forward<Arguments>(arguments)...);
  }
}

}  // namespace pipecodec::device
