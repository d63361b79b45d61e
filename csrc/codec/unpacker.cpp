#include "csrc/codec/unpacker.h"

#include <algorithm>
#include <cstring>

#include "csrc/codec/errors.h"
#include "csrc/device/object.h"
#include "csrc/frame/outline.h"
#include "csrc/frame/strides.h"
#include "csrc/structure/registered.h"

namespace pipecodec::codec {
namespace {

using frame::Leaf;
using frame::Route;
using structure::Ref;

const frame::Root kRoot = "outputs";

[[noreturn]] void bad_slots(const std::string& message) { raise(structure::known().frame_error, message); }

std::string described(at::ScalarType dtype, at::IntArrayRef shape) {
  std::string text = std::string(c10::toString(dtype)) + " [";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + ']';
}

std::string nested(at::ScalarType dtype) { return std::string(c10::toString(dtype)) + " nested"; }

std::string described(const at::Tensor& tensor) {
  if (tensor.is_meta()) return described(tensor.scalar_type(), tensor.sizes()) + " on the meta device";
  return tensor.is_nested() ? nested(tensor.scalar_type()) : described(tensor.scalar_type(), tensor.sizes());
}

// Where the leaves of that route stand, the first of their bytes at `begin`.
std::vector<device::Span> spans_of(const frame::Layout& layout, Route route, uint64_t begin) {
  std::vector<device::Span> spans;
  for (const Leaf& leaf : layout.leaves) {
    if (leaf.route != route) continue;
    const auto shape = layout.shape(leaf), strides = layout.strides(leaf);
    spans.push_back({leaf.dtype,
                     {shape.begin(), shape.end()},
                     {strides.begin(), strides.end()},
                     begin + leaf.place,
                     leaf.bytes()});
  }
  return spans;
}

Ref as_tuple(PyObject* tensors) {
  if (PyTuple_CheckExact(tensors)) return Ref::borrow(tensors);
  if (!PyList_Check(tensors) && !PyTuple_Check(tensors)) {
    raise(PyExc_TypeError, "unpack takes the tuple or list of tensors that pack gave");
  }
  return Ref::steal(PySequence_Tuple(tensors));
}

}  // namespace

std::shared_ptr<const Plan> PlanCache::find(const uint8_t* frame, size_t size) {
  if (registrations_ != structure::registrations()) {
    known_.clear();
    bytes_ = 0;
    last_.clear();
    registrations_ = structure::registrations();
  }
  if (!last_.empty() && size >= last_.size() && std::memcmp(frame, last_.data(), last_.size()) == 0) {
    frame::check_padding(frame, last_.size(), size);
    return known_.front().plan;
  }
  const frame::Header header = frame::parse_header(frame, size);
  const uint8_t* const begin = frame + header.structure_begin();
  const size_t length = header.shapes_end() - header.structure_begin();
  last_.clear();  // until the plan of this frame is known to be the first
  const auto found = std::find_if(known_.begin(), known_.end(), [&](const Known& known) {
    const frame::Header& of = known.plan->layout.header;
    return of.structure_bytes == header.structure_bytes && of.shapes_bytes == header.shapes_bytes &&
           of.values_bytes == header.values_bytes && of.used == header.used && of.leaves == header.leaves &&
           std::memcmp(known.bytes.data(), begin, length) == 0;
  });
  if (found != known_.end()) {
    std::rotate(known_.begin(), found, found + 1);
    frame::check_payload(frame, known_.front().plan->layout);
  } else {
    add({{begin, begin + length},
         std::make_shared<const Plan>(frame, frame::parse_structure(frame, header), Compile::Yes)});
  }
  last_.assign(frame, frame + header.used);
  return known_.front().plan;
}

void PlanCache::add(Known&& known) {
  bytes_ += known.bytes.size();
  known_.insert(known_.begin(), std::move(known));
  while (known_.size() > kKept || (bytes_ > kKeptBytes && known_.size() > 1)) {
    bytes_ -= known_.back().bytes.size();
    known_.pop_back();
  }
}

Plan::Plan(const uint8_t* frame, frame::Layout&& checked, Compile compile)
    : layout(std::move(checked)),
      value(compile == Compile::Yes ? std::make_unique<structure::Builder>(frame, layout) : nullptr),
      slots_only(std::all_of(layout.leaves.begin(), layout.leaves.end(),
                             [](const Leaf& leaf) { return leaf.route == Route::Slot; })),
      tunnel(spans_of(layout, Route::Tunnel, 0), layout.tunnel_bytes),
      in_frame(spans_of(layout, Route::Payload, layout.header.payload_begin())) {}

ReceivedFrame::ReceivedFrame(PyObject* tensors) : tensors_(as_tuple(tensors)) {
  const Py_ssize_t count = PyTuple_GET_SIZE(tensors_.get());
  if (count == 0) bad_slots("there is nothing to unpack: the last tensor must be the frame");
  PyTypeObject* const common = structure::known().tensor;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* const item = PyTuple_GET_ITEM(tensors_.get(), i);
    if (Py_TYPE(item) != common && !device::is_tensor(item)) {
      bad_slots("tensors[" + std::to_string(i) + "] is not a tensor; unpack takes the result of pack");
    }
  }
  if (const char* const why = device::not_a_frame(frame())) {
    bad_slots("tensors[" + std::to_string(count - 1) + "], the last one, " + why + ", this one is " +
              described(frame()));
  }
}

const at::Tensor& ReceivedFrame::frame() const {
  return device::unwrap(PyTuple_GET_ITEM(tensors_.get(), PyTuple_GET_SIZE(tensors_.get()) - 1));
}

void ReceivedFrame::read(PlanCache* plans, Compile compile) {
  checked_.bytes = device::read_frame(frame());
  const device::HostFrame& bytes = checked_.bytes;
  checked_.plan = plans != nullptr ? plans->find(bytes.data, bytes.size)
                                   : std::make_shared<const Plan>(
                                         bytes.data, frame::parse(bytes.data, bytes.size), compile);
}

void ReceivedFrame::check_tunnel(const std::string& name) const {
  const at::Tensor& tunnel = first();
  const bool fine = device::has_memory(tunnel) && tunnel.scalar_type() == at::kFloat;
  if (fine && tunnel.nbytes() >= layout().tunnel_bytes) return;
  const auto refuse = [&](const std::string& why) {
    raise(structure::known().frame_error, name + ": " + why);
  };
  if (!fine) {
    refuse("the tunnel, tensors[0], must be float32 with memory of its own; this one is " +
           described(tunnel));
  }
  for (size_t i = 0; i < layout().leaves.size(); ++i) {
    const Leaf& leaf = layout().leaves[i];
    const uint64_t end = leaf.place + frame::round_up(leaf.bytes(), frame::kAlignment);
    if (leaf.route != Route::Tunnel || end <= tunnel.nbytes()) continue;
    std::string shape;
    for (const int64_t dim : layout().shape(leaf)) shape += (shape.empty() ? "" : ", ") + std::to_string(dim);
    refuse("the frame says that " + path(i) + ", " + frame::kDTypes[static_cast<uint8_t>(leaf.dtype)].name +
           " [" + shape + "], ends at byte " + std::to_string(end) +
           " of the tunnel, tensors[0], which has only " + std::to_string(tunnel.nbytes()));
  }
  refuse("the tunnel, tensors[0], has only " + std::to_string(tunnel.nbytes()) + " bytes");
}

std::vector<frame::Row> ReceivedFrame::rows() const {
  return frame::outline(checked_.bytes.data, layout(), root ? *root : kRoot);
}

std::vector<int64_t> ReceivedFrame::strides(const Leaf& leaf) const {
  const auto in_frame = layout().strides(leaf);
  if (leaf.route != Route::Slot) return {in_frame.begin(), in_frame.end()};
  if (static_cast<size_t>(PyTuple_GET_SIZE(tensors_.get())) != layout().slots + 1 || leaf.nested) return {};
  const at::Tensor& tensor = device::unwrap(item(leaf.place));
  const auto shape = layout().shape(leaf);
  if (!device::fits(tensor, leaf, shape.data()) || tensor.layout() != at::kStrided) return {};
  const at::IntArrayRef own = tensor.strides();
  return frame::has_default_strides(shape, {own.data(), own.size()}) ? std::vector<int64_t>() : own.vec();
}

PyObject* ReceivedFrame::item(size_t i) const {
  return PyTuple_GET_ITEM(tensors_.get(), static_cast<Py_ssize_t>(i));
}

std::string ReceivedFrame::path(size_t leaf) const {
  return frame::leaf_path(checked_.bytes.data, layout(), leaf, root ? *root : kRoot);
}

void ReceivedFrame::refuse_slot(size_t index, size_t first_slot) const {
  const Leaf& leaf = layout().leaves[index];
  const auto shape = layout().shape(leaf);
  const auto dtype = device::scalar_type(leaf.dtype);
  const size_t at = first_slot + leaf.place;
  bad_slots("tensors[" + std::to_string(at) + "], " + path(index) + ": the frame says " +
            (leaf.nested ? nested(dtype) : described(dtype, {shape.data(), shape.size()})) +
            ", the tensor is " + described(device::unwrap(item(at))));
}

Ref ReceivedFrame::slot(const Leaf& leaf, size_t index, size_t first_slot) const {
  const size_t at = first_slot + leaf.place;
  PyObject* const object = item(at);
  const at::Tensor& tensor = device::unwrap(object);
  const auto shape = layout().shape(leaf);
  if (leaf.route == Route::Slot) {
    if (!device::fits(tensor, leaf, shape.data())) refuse_slot(index, first_slot);
    return Ref::borrow(object);
  }
  if (!device::has_memory(tensor) || tensor.scalar_type() != at::kByte || !tensor.is_contiguous() ||
      static_cast<uint64_t>(tensor.numel()) != leaf.bytes()) {
    bad_slots("tensors[" + std::to_string(at) + "], " + path(index) + ": the frame says " +
              std::to_string(leaf.bytes()) + " raw bytes, the tensor is " + described(tensor));
  }
  return device::wrap(device::over_bytes(tensor, 0, leaf.dtype, shape, layout().strides(leaf)));
}

Ref ReceivedFrame::build(size_t first_slot, PyObject* tunnel) const {
  const size_t beside = static_cast<size_t>(PyTuple_GET_SIZE(tensors_.get())) - 1;
  if (beside != first_slot + layout().slots) {
    bad_slots("the frame describes " + std::to_string(layout().slots) + " slots, " + std::to_string(beside) +
              " tensors are " + "beside it" + (first_slot == 0 ? "" : ", the tunnel among them"));
  }
  const uint8_t* const values = checked_.bytes.data + layout().header.values_begin();
  if (checked_.plan->slots_only) {
    PyObject* const* const leaves = reinterpret_cast<PyTupleObject*>(tensors_.get())->ob_item + first_slot;
    const size_t count = layout().leaves.size();
    const size_t fitting = device::count_fitting(leaves, layout());
    if (fitting != count) refuse_slot(fitting, first_slot);
    return checked_.plan->value->build(values, {leaves, count});
  }
  const std::vector<device::Span>& in_frame = checked_.plan->in_frame;
  std::vector<at::Tensor> payload;
  if (!in_frame.empty()) payload = device::scatter(device::unwrap(item(beside)), in_frame);

  std::vector<Ref> owned;
  std::vector<PyObject*> leaves;
  owned.reserve(layout().leaves.size());
  leaves.reserve(layout().leaves.size());
  size_t next_tunnel = 0, next_payload = 0;
  for (size_t i = 0; i < layout().leaves.size(); ++i) {
    const Leaf& leaf = layout().leaves[i];
    switch (leaf.route) {
      case Route::Slot:
      case Route::RawSlot:
        owned.push_back(slot(leaf, i, first_slot));
        break;
      case Route::Tunnel:
        if (tunnel == nullptr || static_cast<Py_ssize_t>(next_tunnel) >= PyTuple_GET_SIZE(tunnel)) {
          bad_slots(path(i) + " travels through a tunnel; unpack it with a codec of transport='tunnel'");
        }
        owned.push_back(Ref::borrow(PyTuple_GET_ITEM(tunnel, static_cast<Py_ssize_t>(next_tunnel++))));
        break;
      case Route::Payload:
        owned.push_back(device::wrap(std::move(payload[next_payload++])));
        break;
    }
    leaves.push_back(owned.back().get());
  }
  return checked_.plan->value->build(values, leaves);
}

}  // namespace pipecodec::codec
