#include "csrc/codec/packer.h"

#include <algorithm>
#include <cstring>

#include "csrc/codec/assemble.h"
#include "csrc/codec/errors.h"
#include "csrc/device/object.h"
#include "csrc/frame/header.h"

namespace pipecodec::codec {
namespace {

using structure::Encoder;
using structure::Ref;

constexpr const char* kRoot = "outputs";

uint32_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? 0 : static_cast<uint32_t>(tensor._version());
}

at::Device device_for(PyObject* device, const Encoder& encoder) {
  if (device != nullptr && device != Py_None) return device::parse_device(device);
  return encoder.leaves.empty() ? at::Device(at::kCPU) : device::unwrap(encoder.leaves[0].tensor).device();
}

// The frame's bytes behind the header: the header's own follow from them.
bool same_body(const frame::Writer& a, const frame::Writer& b) {
  return a.size() == b.size() && a.size() >= frame::kHeaderBytes &&
         std::memcmp(a.data() + frame::kHeaderBytes, b.data() + frame::kHeaderBytes,
                     a.size() - frame::kHeaderBytes) == 0;
}

}  // namespace

std::unique_ptr<Encoder> Packer::encode(PyObject* value) {
  std::unique_ptr<Encoder> encoder = spare_ ? std::move(spare_) : std::make_unique<Encoder>();
  encoder->run(value, name_.empty() ? kRoot : name_ + ": " + kRoot);
  return encoder;
}

Ref Packer::pack(PyObject* value, PyObject* device) {
  std::unique_ptr<Encoder> encoder = encode(value);
  const at::Device where = device_for(device, *encoder);
  frame::Header header = assemble(*encoder, {}, {});
  Ref frame = frame_for(*encoder, header, where);
  const size_t leaves = encoder->leaves.size();
  Ref packed = Ref::take(PyTuple_New(static_cast<Py_ssize_t>(leaves + 1)));
  for (size_t i = 0; i < leaves; ++i) {
    PyTuple_SET_ITEM(packed.get(), static_cast<Py_ssize_t>(i), Py_NewRef(encoder->leaves[i].tensor));
    stats.bytes += encoder->leaves[i].bytes;
  }
  PyTuple_SET_ITEM(packed.get(), static_cast<Py_ssize_t>(leaves), frame.release());
  stats.messages += leaves + 1;
  encoder->clear();
  spare_ = std::move(encoder);
  return packed;
}

Sent Packer::send(PyObject* value, PyObject* device) {
  std::unique_ptr<Encoder> encoder = encode(value);
  const at::Device where = device_for(device, *encoder);
  Routed routed = router_.route(*encoder, where, kRoot, name_);
  check_signature(*encoder, routed);
  frame::Header header = assemble(*encoder, routed.payload, routed.payload_spans);
  Sent sent;
  sent.frame = frame_for(*encoder, header, where);
  sent.tunnel = Ref::take(PyTuple_New(static_cast<Py_ssize_t>(routed.tunnel.size())));
  for (size_t i = 0; i < routed.tunnel.size(); ++i) {
    PyTuple_SET_ITEM(sent.tunnel.get(), static_cast<Py_ssize_t>(i), Py_NewRef(routed.tunnel[i]));
  }
  sent.slots = Ref::take(PyTuple_New(static_cast<Py_ssize_t>(routed.slots.size())));
  for (size_t i = 0; i < routed.slots.size(); ++i) {
    stats.bytes += routed.slots[i].nbytes();
    PyTuple_SET_ITEM(sent.slots.get(), static_cast<Py_ssize_t>(i),
                     device::wrap(std::move(routed.slots[i])).release());
  }
  sent.spans = std::move(routed.tunnel_spans);
  sent.tunnel_bytes = routed.tunnel_bytes;
  stats.bytes += sent.tunnel_bytes;
  stats.messages += routed.slots.size() + 2;
  encoder->clear();
  spare_ = std::move(encoder);
  return sent;
}

void Packer::reset() {
  capacity_ = configured_;
  agreed_.reset();
  router_.reset();
}

Ref Packer::frame_for(Encoder& encoder, frame::Header& header, at::Device device) {
  frame::Writer& bytes = encoder.structure;
  const size_t capacity = capacity_for(bytes.size());
  ++stats.frames;
  stats.bytes += capacity;
  if (last_frame_ && same_body(bytes, last_bytes_)) {
    const at::Tensor& last = device::unwrap(last_frame_.get());
    // A caller who wrote into the frame meanwhile gets a new one; what was written through .numpy() goes
    // unseen.
    if (last.device() == device && static_cast<size_t>(last.numel()) == capacity &&
        version_of(last) == last_version_) {
      ++stats.hits;
      return Ref::share(last_frame_.get());
    }
  }
  frame::seal(header, bytes.data());
  Ref made = device::wrap(device::make_frame(bytes.data(), bytes.size(), capacity, device));
  last_version_ = version_of(device::unwrap(made.get()));
  last_frame_ = Ref::share(made.get());
  last_bytes_.swap(bytes);
  return made;
}

// The first frame of a boundary settles its capacity: a quarter more than it uses, at least one step more, so
// that a longer string or a few more values still fit the messages the engine has agreed on.
size_t Packer::capacity_for(size_t used) {
  if (dynamic_) return std::max(frame::round_up(used, frame::kCapacityStep), configured_.value_or(0));
  if (!capacity_) {
    const size_t headroom = used / 4 > frame::kCapacityStep ? used / 4 : frame::kCapacityStep;
    capacity_ = frame::round_up(used + headroom, frame::kCapacityStep);
  }
  if (used > *capacity_) {
    raise(structure::known().capacity_error,
          name_ + ": this frame needs " + std::to_string(used) + " bytes, the boundary agreed on " +
              std::to_string(*capacity_) +
              "; give its codec capacity=" + std::to_string(frame::round_up(used, frame::kCapacityStep)) +
              " or more on all ranks, or set dynamic_shape=True there");
  }
  return *capacity_;
}

void Packer::check_signature(const Encoder& encoder, const Routed& routed) {
  if (dynamic_) return;
  const std::string change = agreed_.check(encoder, routed, kRoot);
  if (change.empty()) return;
  raise(structure::known().structure_changed,
        name_ + ": " + change +
            ", and with static shapes all micro-batches have the first one's sizes; pad to one shape, or set "
            "dynamic_shape=True on all ranks");
}

}  // namespace pipecodec::codec
