// The one place that knows how the versions of torch differ for this project. From 2.8 on.
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

// True while the work of the stream, the device's current one, is captured into a graph. Before 2.12
// torch told that of CUDA alone.
inline bool is_capturing(const c10::Stream& stream) {
#if PIPECODEC_TORCH_AT_LEAST(2, 12)
  return stream.is_capturing();
#else
  const Kernels* const own = kernels(stream.device());
  return own != nullptr && own->capturing();
#endif
}

// How autograd holds its nodes: std::shared_ptr at first, an intrusive pointer later.
using NodePtr = decltype(torch::autograd::Edge::function);

template <class Made, class... Arguments>
auto make_node(Arguments&&... arguments) {
  if constexpr (std::is_same_v<NodePtr, std::shared_ptr<torch::autograd::Node>>) {
    // The name is looked up where it is there: torch's own function, which takes long graphs apart in a loop.
    return std::shared_ptr<Made>(new Made(std::forward<Arguments>(arguments)...),
                                 [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Made>(std::forward<Arguments>(arguments)...);
  }
}

}  // namespace pipecodec::device
