#include "csrc/codec/nodes.h"

#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <stdexcept>

#include "csrc/device/node_ptr.h"
#include "csrc/device/object.h"

namespace pipecodec::codec {

using structure::Ref;
using torch::autograd::Edge;
using torch::autograd::Node;
using torch::autograd::variable_list;

namespace {

// Runs `body` under the interpreter's lock; a Python error in it becomes torch's python_error.
template <class Body>
auto with_python(Body body) {
  const pybind11::gil_scoped_acquire locked;
  try {
    return body();
  } catch (const structure::PythonError&) {
    python_error error;
    error.persist();
    throw std::move(error);
  }
}

Ref list_of(std::span<const size_t> indices) {
  Ref made = Ref::steal(PyList_New(static_cast<Py_ssize_t>(indices.size())));
  for (size_t i = 0; i < indices.size(); ++i) {
    PyList_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i),
                    Ref::steal(PyLong_FromSize_t(indices[i])).release());
  }
  return made;
}

[[noreturn]] void refuse_compilation() {
  throw std::runtime_error(
      "compiled autograd cannot run a boundary between pipeline stages; call backward outside of it");
}

struct End : Node {
  // Returns the result of `make` without a history. If the caller creates a graph, differentiating that
  // result is an error.
  template <class Make>
  variable_list once(const variable_list& gradients, Make make) {
    const bool twice = c10::GradMode::is_enabled() &&
                       std::any_of(gradients.begin(), gradients.end(), [](const at::Tensor& gradient) {
                         return gradient.defined() && gradient.requires_grad();
                       });
    variable_list made;
    {
      const at::NoGradGuard without;
      const std::lock_guard<std::mutex> lock(mutex_);
      made = make();
    }
    if (!twice) return made;
    for (at::Tensor& tensor : made) {
      if (tensor.defined()) tensor = tensor.detach().requires_grad_();
    }
    const auto error = device::make_node<torch::autograd::DelayedError>(
        "a boundary between pipeline stages can be differentiated once: the result of its backward pass has "
        "no gradient",
        static_cast<int64_t>(made.size()));
    return (*error)(std::move(made));
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs&) const override { refuse_compilation(); }

  std::shared_ptr<Ends> ends;
};

struct Entry final : End {
  std::string name() const override { return "PipecodecEntry"; }

  variable_list apply(variable_list&& gradients) override {
    return once(gradients, [&] { return apart(gradients[0]); });
  }

  variable_list apart(const at::Tensor& gradient) {
    const size_t leaves = tunnel.leaves();
    variable_list made(1 + leaves);
    if (task_should_compute_output(0)) made[0] = at::zeros(token_sizes, token_options);
    if (!gradient.defined()) return made;
    std::vector<bool> wanted(leaves);
    for (size_t i = 0; i < leaves; ++i) wanted[i] = task_should_compute_output(1 + i);
    if (unused) {
      drop(wanted, *unused);
    } else if (ends->unused) {
      drop(wanted, *ends->unused);
    } else if (leaves != 0 && gradient.is_cpu()) {
      drop(wanted, tunnel.unused(gradient));
    }
    if (std::none_of(wanted.begin(), wanted.end(), [](bool any) { return any; })) return made;
    // Otherwise copies: the gradient is the engine's buffer, and the tensors returned may become a .grad.
    const bool own = leaves == 1 && ends->donate_gradient && take(gradient);
    std::vector<at::Tensor> apart = tunnel.gradients().scatter(gradient, own);
    for (size_t i = 0; i < leaves; ++i) {
      if (wanted[i]) made[1 + i] = std::move(apart[i]);
    }
    return made;
  }

  static void drop(std::vector<bool>& wanted, std::span<const size_t> unused) {
    for (const size_t index : unused) {
      if (index < wanted.size()) wanted[index] = false;
    }
  }

  bool take(const at::Tensor& gradient) const {
    return with_python([&] {
      const Ref object = device::wrap(at::Tensor(gradient));
      const Ref given = Ref::steal(PyObject_CallOneArg(ends->donate_gradient.get(), object.get()));
      const int truth = PyObject_IsTrue(given.get());
      structure::check(truth);
      return truth != 0;
    });
  }

  explicit Entry(Tunnel of) : tunnel(std::move(of)) {}

  const Tunnel tunnel;
  std::vector<int64_t> token_sizes{0};
  at::TensorOptions token_options;
  bool with_gradients = false;
  std::optional<std::vector<size_t>> unused;  // set by the Exit where both ends share one tensor
};

struct Exit final : End {
  std::string name() const override { return kExit; }

  variable_list apply(variable_list&& gradients) override {
    return once(gradients, [&] { return variable_list{together({gradients.data() + 1, tunnel.leaves()})}; });
  }

  at::Tensor together(std::span<const at::Tensor> gradients) {
    std::vector<size_t> unused;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i].defined()) unused.push_back(i);
    }
    const bool nobody = !unused.empty() && !tunnel.has_tail();
    if (entry != nullptr) {
      entry->unused = std::move(unused);
    } else if (!gradients.empty() && ends->note_unused) {
      with_python([&] {
        const Ref indices = list_of(unused);
        const pybind11::object of = pybind11::cast(tunnel);
        Ref::steal(PyObject_CallFunctionObjArgs(ends->note_unused.get(), indices.get(), of.ptr(), nullptr));
      });
    }
    // A single leaf's gradient may be passed on as it is, as autograd does in the backward pass of a view.
    at::Tensor made = tunnel.gradients().gather(gradients, device, true);
    if (nobody && entry == nullptr && ends->mark_unused && device.is_cpu()) tunnel.mark_unused(made);
    return made;
  }

  Exit(Tunnel of, at::Device where) : tunnel(std::move(of)), device(where) {}

  const Tunnel tunnel;
  const at::Device device;
  Entry* entry = nullptr;  // behind this node's edge
};

Entry* entry_of(const at::Tensor& tensor) {
  return tensor.requires_grad() ? dynamic_cast<Entry*>(tensor.grad_fn().get()) : nullptr;
}

// Passes the gradient to its first input, and zeros to the second one, the token.
struct Join final : Node {
  explicit Join(const at::Tensor& token) : sizes(token.sizes().vec()), options(token.options()) {}

  std::string name() const override { return "PipecodecJoin"; }

  variable_list apply(variable_list&& gradients) override {
    variable_list made(2);
    made[0] = std::move(gradients[0]);
    if (task_should_compute_output(1)) made[1] = at::zeros(sizes, options);
    return made;
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs&) const override { refuse_compilation(); }

  const std::vector<int64_t> sizes;
  const at::TensorOptions options;  // kept: a loss may be moved to another device
};

}  // namespace

std::shared_ptr<Ends> make_ends() {
  // The last owner may be a node, freed by a thread of the backward pass that does not hold the lock.
  return {new Ends, [](Ends* ends) {
            if (!ends->donate_gradient && !ends->note_unused) {
              delete ends;
            } else if (Py_IsInitialized() != 0) {
              const pybind11::gil_scoped_acquire locked;
              delete ends;
            }
          }};
}

at::Tensor enter(const Tunnel& tunnel, const at::Tensor& token, std::span<const at::Tensor> leaves,
                 at::Device device, std::span<const size_t> left_out, std::shared_ptr<Ends> ends) {
  at::Tensor made;
  {
    const at::NoGradGuard without;
    made = tunnel.gather(leaves, device, true);
  }
  const auto requires_grad = [](const at::Tensor& tensor) { return tensor.requires_grad(); };
  const bool any =
      !token.defined() || token.requires_grad() || std::any_of(leaves.begin(), leaves.end(), requires_grad);
  if (!c10::GradMode::is_enabled() || !any) return made;
  const auto node = device::make_node<Entry>(tunnel);
  torch::autograd::edge_list edges;
  edges.reserve(1 + leaves.size());
  node->token_options = at::TensorOptions().dtype(at::kFloat).device(device);
  if (token.defined()) {
    node->token_sizes = token.sizes().vec();
    node->token_options = token.options();
    edges.push_back(torch::autograd::impl::gradient_edge(token));
  } else {
    edges.emplace_back();
  }
  for (const at::Tensor& leaf : leaves) edges.push_back(torch::autograd::impl::gradient_edge(leaf));
  for (const size_t index : left_out) {
    if (index < leaves.size()) edges[1 + index] = Edge();
  }
  node->with_gradients =
      std::any_of(edges.begin() + 1, edges.end(), [](const Edge& edge) { return edge.is_valid(); });
  node->ends = std::move(ends);
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(made, node);
  return made;
}

std::vector<at::Tensor> leave(const Tunnel& tunnel, const at::Tensor& received, bool reuse,
                              std::shared_ptr<Ends> ends) {
  std::vector<at::Tensor> made(1);
  {
    const at::NoGradGuard without;
    made[0] = at::empty({0}, at::TensorOptions().dtype(at::kFloat).device(received.device()));
    std::vector<at::Tensor> leaves = tunnel.scatter(received, reuse);
    made.insert(made.end(), std::make_move_iterator(leaves.begin()), std::make_move_iterator(leaves.end()));
  }
  if (!c10::GradMode::is_enabled() || !received.requires_grad()) return made;
  const auto node = device::make_node<Exit>(tunnel, received.device());
  node->entry = entry_of(received);
  node->ends = std::move(ends);
  node->set_next_edges({torch::autograd::impl::gradient_edge(received)});
  torch::autograd::set_history(made, node);
  return made;
}

at::Tensor join(const at::Tensor& tensor, const at::Tensor& token) {
  at::Tensor made = tensor.detach();
  const auto node = device::make_node<Join>(token);
  node->set_next_edges(
      {torch::autograd::impl::gradient_edge(tensor), torch::autograd::impl::gradient_edge(token)});
  torch::autograd::set_history(made, node);
  return made;
}

bool in_backward() { return torch::autograd::get_current_graph_task_id() != -1; }

bool entered_with_gradients(const at::Tensor& tensor) {
  const Entry* const entry = entry_of(tensor);
  return entry != nullptr && entry->with_gradients;
}

void leave_out(const at::Tensor& tensor, std::span<const size_t> leaves) {
  Entry* const entry = entry_of(tensor);
  if (entry == nullptr) return;
  for (const size_t index : leaves) entry->next_edges().at(1 + index) = Edge();
}

}  // namespace pipecodec::codec
