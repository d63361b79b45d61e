#include "csrc/codec/boundary.h"

#include <c10/core/GradMode.h>
#include <pybind11/pybind11.h>

#include "csrc/codec/errors.h"
#include "csrc/codec/nodes.h"
#include "csrc/device/object.h"

namespace pipecodec::codec {

using structure::Ref;

namespace {

// Records a sent tunnel, for the caller of its backward pass: it must name the unused leaves before that
// starts.
void note_sent(const Packer& packer, const Tunnel& tunnel, PyObject* sent) {
  const Ref weak = Ref::steal(PyWeakref_NewRef(sent, nullptr));
  const pybind11::object of = pybind11::cast(tunnel);
  const Ref entry = Ref::steal(PyTuple_Pack(2, of.ptr(), weak.get()));
  static PyObject* const append = PyUnicode_InternFromString("append");
  Ref::steal(PyObject_CallMethodOneArg(packer.in_flight.get(), append, entry.get()));
}

// The tensors with copies of those between the first and the last.
Ref with_own_slots(PyObject* tensors) {
  Ref own = Ref::steal(PySequence_List(tensors));
  for (Py_ssize_t i = 1; i + 1 < PyList_GET_SIZE(own.get()); ++i) {
    PyObject* const slot = PyList_GET_ITEM(own.get(), i);
    if (!device::is_tensor(slot)) continue;  // refused later, with all others
    structure::check(PyList_SetItem(own.get(), i, device::wrap(device::unwrap(slot).clone()).release()));
  }
  return own;
}

// Autograd would add the gradients of two uses as float32 numbers, which a tunnel's bits are not.
void mark_as_left(PyObject* received, const std::string& name) {
  static PyObject* const mark = PyUnicode_InternFromString("_pipecodec_left");
  const int left = PyObject_HasAttr(received, mark);
  if (left != 0) {
    raise(structure::known().frame_error,
          name +
              ": these tensors were unpacked before, and autograd would add the gradients of both as "
              "float32 numbers, which a tunnel's bits are not; unpack once, or a clone");
  }
  structure::check(PyObject_SetAttr(received, mark, Py_True));
}

}  // namespace

Ref send(Packer& packer, PyObject* value, PyObject* token, PyObject* device) {
  if (token != Py_None && !device::is_tensor(token)) raise(PyExc_TypeError, "the token is a tensor or None");
  Sent sent = packer.send(value, device);
  const Tunnel& tunnel = sent.tunnel;
  const at::Tensor joined = token == Py_None ? at::Tensor() : device::unwrap(token);
  const at::Device where = joined.defined() ? joined.device() : device::unwrap(sent.frame.get()).device();
  const bool again = in_backward();
  std::span<const size_t> left_out;
  if (again && packer.ends->unused) left_out = *packer.ends->unused;
  Ref entered = device::wrap(enter(tunnel, joined, sent.leaves, where, left_out, packer.ends));
  if (packer.in_flight && !again) note_sent(packer, tunnel, entered.get());
  const auto slots = static_cast<Py_ssize_t>(sent.slots.size());
  Ref made = Ref::steal(PyTuple_New(slots + 2));
  PyTuple_SET_ITEM(made.get(), 0, entered.release());
  for (Py_ssize_t i = 0; i < slots; ++i) {
    PyTuple_SET_ITEM(made.get(), 1 + i,
                     device::wrap(std::move(sent.slots[static_cast<size_t>(i)])).release());
  }
  PyTuple_SET_ITEM(made.get(), 1 + slots, sent.frame.release());
  if (packer.announce && !again) {
    const Ref announce = Ref::borrow(packer.announce.get());  // the call may replace it
    const Ref bytes = Ref::steal(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(sent.bytes.data()),
                                                           static_cast<Py_ssize_t>(sent.bytes.size())));
    Ref::steal(PyObject_CallFunctionObjArgs(announce.get(), made.get(), bytes.get(), nullptr));
  }
  return made;
}

Ref receive(Packer& packer, PyObject* tensors, bool reuse, PyObject* known) {
  const Ref own = reuse ? Ref::borrow(tensors) : with_own_slots(tensors);
  ReceivedFrame opened(own.get());
  const Ref frame = known == Py_None ? Ref() : Ref::steal(PyTuple_Pack(1, known));
  packer.open(opened, frame.get());
  opened.check_tunnel(packer.name());
  const Tunnel& tunnel = opened.tunnel();
  const at::Tensor& received = opened.first();
  if (tunnel.leaves() > 0 && received.requires_grad() && c10::GradMode::is_enabled()) {
    mark_as_left(opened.first_object(), packer.name());
  }
  std::vector<at::Tensor> left = leave(tunnel, received, reuse, packer.ends);
  Ref leaves = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(left.size()) - 1));
  for (size_t i = 1; i < left.size(); ++i) {
    PyTuple_SET_ITEM(leaves.get(), static_cast<Py_ssize_t>(i) - 1,
                     device::wrap(std::move(left[i])).release());
  }
  const Ref value = opened.build(1, leaves.get());
  const Ref token = device::wrap(std::move(left[0]));
  return Ref::steal(PyTuple_Pack(2, value.get(), token.get()));
}

}  // namespace pipecodec::codec
