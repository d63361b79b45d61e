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

// The settings of backward passes through one boundary, shared by a codec and the nodes of its values. The
// callables are read and changed under the interpreter's lock.
struct Ends {
  // The unused leaves of the value whose backward pass runs; nullopt: its gradient's tail or mark names them.
  std::optional<std::vector<size_t>> unused;
  structure::Ref donate_gradient;  // Tensor -> bool: whether a single leaf may alias this gradient's memory
  structure::Ref note_unused;      // (list of int, Tunnel) -> None: receives the unused leaves
  bool mark_unused = false;        // mark a single leaf's gradient on the CPU too
};

std::shared_ptr<Ends> make_ends();

// No node below holds the tensor of a leaf or of a tunnel. A second derivative is an error, and so is
// compiled autograd.

// Returns the float32 1-D tensor with the bits of `leaves`. Its gradient has the bits of their gradients, and
// also reaches `token`, if defined, as zeros. The graph behind the leaves in `left_out` is not reached.
at::Tensor enter(const Tunnel& tunnel, const at::Tensor& token, std::span<const at::Tensor> leaves,
                 at::Device device, std::span<const size_t> left_out, std::shared_ptr<Ends> ends);

// Returns an empty float32 tensor, and the leaves whose bits `received` holds, none of them a view. A
// backward pass that reaches any of these gives `received` a gradient: zeros for the leaves not reached,
// which it also names. `reuse` is that of Tunnel::scatter.
std::vector<at::Tensor> leave(const Tunnel& tunnel, const at::Tensor& received, bool reuse,
                              std::shared_ptr<Ends> ends);

// Returns the tensor, in the same memory and no view, with `token` behind it in the graph too: a backward
// pass gives the token zeros. Both must be able to require a gradient, and gradients must be enabled.
at::Tensor join(const at::Tensor& tensor, const at::Tensor& token);

// True where enter() made the tensor and one of its leaves requires a gradient.
bool entered_with_gradients(const at::Tensor& tensor);

// Cuts leaves of a tensor that enter() made out of every backward pass that starts later: the graph behind
// them does not run. (With an undefined gradient it would: hooks would see None, and functions written in
// Python zeros.)
void leave_out(const at::Tensor& tensor, std::span<const size_t> leaves);

// True while this thread runs a backward pass: a stage that runs then is recomputed.
bool in_backward();

// The name of the nodes that leave() makes.
inline constexpr const char* kExit = "PipecodecExit";

}  // namespace pipecodec::codec
