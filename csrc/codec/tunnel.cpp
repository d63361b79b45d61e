#include "csrc/codec/tunnel.h"

#include <algorithm>

#include "csrc/codec/errors.h"
#include "csrc/device/object.h"

namespace pipecodec::codec {

using structure::Ref;

namespace {

// In the tail of a gradient. A gradient made by hand, of zeros or of ones, has none.
constexpr uint8_t kUnused = 0xA5;

}  // namespace

uint64_t tunnel_size(const std::vector<device::Span>& spans, uint64_t bytes) {
  if (spans.size() == 1 && spans[0].bytes == bytes && bytes != 0) return bytes;
  return std::max<uint64_t>(bytes + frame::round_up(spans.size(), frame::kAlignment), frame::kAlignment);
}

Tunnel::Tunnel(std::vector<device::Span> spans, uint64_t bytes)
    : spans_(std::make_shared<const std::vector<device::Span>>(std::move(spans))),
      gradient_spans_(spans_),
      bytes_(bytes),
      size_(tunnel_size(*spans_, bytes)) {
  if (std::none_of(spans_->begin(), spans_->end(),
                   [](const device::Span& span) { return span.expanded(); })) {
    return;
  }
  std::vector<device::Span> whole(*spans_);
  for (device::Span& span : whole) {
    if (!span.expanded()) continue;
    span.strides.clear();
    span.bytes = frame::kDTypes[static_cast<uint8_t>(span.dtype)].bytes;
    for (const int64_t dim : span.shape) span.bytes *= static_cast<uint64_t>(dim);
  }
  gradient_spans_ = std::make_shared<const std::vector<device::Span>>(std::move(whole));
}

// True for a tensor, leaf or tunnel, whose elements are all of the tunnel's bytes. Without padding, so that
// the tunnel has the same size whether it was copied or not.
bool Tunnel::lone(const at::Tensor& tensor) const {
  return spans_->size() == 1 && spans_->front().bytes == size_ && tensor.nbytes() == size_;
}

Ref Tunnel::gather(PyObject* tensors, PyObject* device, bool reuse) const {
  const std::vector<device::Span>& spans = *spans_;
  const Ref items = Ref::take(PySequence_Tuple(tensors));
  if (static_cast<size_t>(PyTuple_GET_SIZE(items.get())) != spans.size()) {
    raise(PyExc_ValueError, "the tunnel has " + std::to_string(spans.size()) + " leaves");
  }
  std::vector<at::Tensor> leaves(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    PyObject* const item = PyTuple_GET_ITEM(items.get(), static_cast<Py_ssize_t>(i));
    if (item == Py_None) continue;
    if (!device::is_tensor(item)) raise(PyExc_TypeError, "the tunnel takes tensors or None");
    leaves[i] = device::unwrap(item);
    if (!device::has_shape(leaves[i], spans[i].shape.data(), spans[i].shape.size()) ||
        leaves[i].scalar_type() != device::scalar_type(spans[i].dtype)) {
      raise(PyExc_ValueError,
            "leaf " + std::to_string(i) + " of the tunnel has another shape or dtype than was agreed");
    }
  }
  const at::Device where = device::parse_device(device);
  const bool view = reuse && spans.size() == 1 && leaves[0].defined() && leaves[0].device() == where &&
                    lone(leaves[0]) && device::lies_as(leaves[0], spans[0]);
  const at::Tensor made =
      view ? device::bytes_in_place(leaves[0], spans[0]) : device::gather(leaves, spans, size_, where);
  if (has_tail() && where.is_cpu()) {
    auto* const tail = static_cast<uint8_t*>(made.mutable_data_ptr()) + bytes_;
    for (size_t i = 0; i < leaves.size(); ++i) tail[i] = leaves[i].defined() ? 0 : kUnused;
  }
  const int64_t shape[] = {made.numel() / 4};
  return device::wrap(device::over_bytes(made, 0, frame::DType::Float32, shape));
}

Ref Tunnel::unused(PyObject* gradient) const {
  const at::Tensor bytes = device::as_bytes(device::plain(checked(gradient, size_)));
  const uint8_t* const tail = static_cast<const uint8_t*>(bytes.const_data_ptr()) + bytes_;
  Ref found = Ref::take(PyList_New(0));
  for (size_t i = 0; i < spans_->size(); ++i) {
    if (tail[i] != kUnused) continue;
    const Ref index = Ref::take(PyLong_FromSize_t(i));
    structure::check(PyList_Append(found.get(), index.get()));
  }
  return found;
}

const at::Tensor& Tunnel::checked(PyObject* buffer, uint64_t bytes) const {
  if (!device::is_tensor(buffer)) raise(PyExc_TypeError, "the tunnel is a tensor");
  const at::Tensor& tensor = device::unwrap(buffer);
  if (!device::has_memory(tensor) || tensor.scalar_type() != at::kFloat || tensor.nbytes() < bytes) {
    raise(structure::known().frame_error,
          "the tunnel must be float32 of at least " + std::to_string(bytes / 4) +
              " elements, with memory of its own; this one is " + c10::toString(tensor.scalar_type()) +
              (tensor.is_nested() ? std::string(", nested") : " with " + std::to_string(tensor.numel())));
  }
  return tensor;
}

Ref Tunnel::scatter(PyObject* buffer, bool reuse) const {
  const at::Tensor& tensor = checked(buffer, bytes_);
  std::vector<at::Tensor> leaves;
  if (reuse && lone(tensor)) {
    const device::Span& span = spans_->front();
    leaves.push_back(
        device::over_bytes(device::as_bytes(device::plain(tensor)), 0, span.dtype, span.shape, span.strides));
  } else {
    leaves = device::scatter(tensor, *spans_);
  }
  Ref made = Ref::take(PyTuple_New(static_cast<Py_ssize_t>(leaves.size())));
  for (size_t i = 0; i < leaves.size(); ++i) {
    PyTuple_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i), device::wrap(std::move(leaves[i])).release());
  }
  return made;
}

}  // namespace pipecodec::codec
