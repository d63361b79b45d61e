// How the versions of torch differ in how autograd holds its nodes. Apart from torch_version.h, since
// autograd's headers take as long to compile as all others together.
#pragma once

#include <torch/csrc/autograd/function.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace pipecodec::device {

// std::shared_ptr at first, an intrusive pointer later.
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
