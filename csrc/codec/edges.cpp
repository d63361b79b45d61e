#include "csrc/codec/edges.h"

#include <torch/csrc/autograd/function.h>

namespace pipecodec::codec {

void leave_out(const at::Tensor& tensor, size_t index) {
  torch::autograd::edge_list& edges = tensor.grad_fn()->next_edges();
  edges.at(index) = torch::autograd::Edge();
}

}  // namespace pipecodec::codec
