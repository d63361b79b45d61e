// The autograd nodes at the two ends of a tunnel.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "csrc/codec/tunnel.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

// What backward passes through one boundary are told and tell. A codec and the nodes of its values share it;
// the callables are read and changed under the interpreter's lock.
struct Ends {
  // The leaves that nobody used of the value whose backward pass runs; none: its gradient says which.
  std::optional<std::vector<size_t>> unused;
  structure::Ref take_gradient;  // Tensor -> bool: whether a lone leaf may keep the memory of this gradient
  structure::Ref note_unused;    // (list of int, Tunnel) -> None: the leaves received that nobody used
  bool mark_unused = false;      // a gradient on the CPU says it of a lone leaf too
};

std::shared_ptr<Ends> make_ends();

// Below: no tensor that a node holds is a leaf or a tunnel. A second derivative is an error, and so is
// compiled autograd.

// The float32 1-D tensor with the bits of `leaves`; its gradient has the bits of theirs, and reaches `token`
// too (as zeros), which may be undefined. The graph behind the leaves in `left_out` is not reached.
at::Tensor enter(const Tunnel& tunnel, const at::Tensor& token, std::span<const at::Tensor> leaves,
                 at::Device device, std::span<const size_t> left_out, std::shared_ptr<Ends> ends);

// The way out: an empty float32 tensor and the leaves whose bits `received` holds, none of which is a view.
// A backward pass that reaches any of them gives `received` a gradient, zeros for leaves that it did not
// reach, and says which those are. With `reuse` as in Tunnel::scatter.
std::vector<at::Tensor> leave(const Tunnel& tunnel, const at::Tensor& received, bool reuse,
                              std::shared_ptr<Ends> ends);

// The same values in the same memory, no view, and with `token` behind them in the graph too: a backward pass
// gives it zeros. Both require a gradient or may require one, and gradients are enabled.
at::Tensor join(const at::Tensor& tensor, const at::Tensor& token);

// Whether enter() made the tensor, of leaves any of which requires a gradient.
bool entered_with_gradients(const at::Tensor& tensor);

// Leaves these leaves of a tensor that enter() made out of every backward pass that starts later, as if they
// had not been there: the graph behind them does not run. (Without a gradient it would: hooks would see None,
// and functions written in Python zeros.)
void leave_out(const at::Tensor& tensor, std::span<const size_t> leaves);

// Whether a backward pass is running in this thread, which runs a stage again.
bool in_backward();

// The name of the nodes that leave() makes.
inline constexpr const char* kExit = "PipecodecExit";

}  // namespace pipecodec::codec
