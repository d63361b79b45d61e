#include "csrc/codec/packer.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>

#include "csrc/codec/assemble.h"
#include "csrc/codec/errors.h"
#include "csrc/codec/tunnel.h"
#include "csrc/device/object.h"
#include "csrc/frame/header.h"
#include "csrc/frame/strides.h"

namespace pipecodec::codec {
namespace {

using structure::Encoder;
using structure::Ref;

// The device asked for; none for that of the value's first leaf with data.
std::optional<at::Device> asked(PyObject* device) {
  if (device == nullptr || device == Py_None) return std::nullopt;
  return device::parse_device(device);
}

at::Device device_of(std::optional<at::Device> asked, PyObject* const* leaves, size_t count) {
  if (asked) return *asked;
  for (size_t i = 0; i < count; ++i) {
    const at::Device device = device::unwrap(leaves[i]).device();
    if (!device.is_meta()) return device;
  }
  return at::Device(at::kCPU);
}

// An encoder whose buffers have grown already. Taken by the call that runs and put back after it: a value's
// own code may pack too.
std::unique_ptr<Encoder> spare;

void put_back(std::unique_ptr<Encoder> encoder) {
  constexpr size_t kKeptLeaves = 1 << 16;
  if (encoder->leaves.size() > kKeptLeaves) return;
  encoder->clear();
  spare = std::move(encoder);
}

// New references of a match, or nulls.
struct Held {
  explicit Held(size_t leaves) : objects(leaves) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    for (PyObject* const object : objects) Py_XDECREF(object);
  }
  std::vector<PyObject*> objects;
};

bool is_contiguous(const at::Tensor& tensor) {
  const at::IntArrayRef shape = tensor.sizes(), strides = tensor.strides();
  return frame::has_default_strides({shape.data(), shape.size()}, {strides.data(), strides.size()});
}

// Whether tensors of the shapes and dtypes of `way` go that way: what depends on anything else.
bool travels_as_before(const Way& way, const std::vector<PyObject*>& leaves) {
  const bool gradients = c10::GradMode::is_enabled();
  for (size_t i = 0; i < leaves.size(); ++i) {
    const at::Tensor& tensor = device::unwrap(leaves[i]);
    if (device::unsendable(tensor) != nullptr || !is_contiguous(tensor) ||
        (!way.through_tunnel[i] && gradients && tensor.requires_grad())) {
      return false;
    }
  }
  return true;
}

// Null where a leaf travels in the frame or is not contiguous, or where no pattern knows the value.
std::unique_ptr<const Way> way_of(PyObject* value, const Encoder& encoder, const Tunnel& tunnel,
                                  uint64_t bytes) {
  auto way = std::make_unique<Way>();
  for (const Encoder::Leaf& leaf : encoder.leaves) {
    const at::Tensor& tensor = device::unwrap(leaf.tensor);
    const auto route = static_cast<frame::Route>(encoder.structure.data()[leaf.flags_at] & frame::kRouteMask);
    if (route == frame::Route::Payload || !is_contiguous(tensor)) return nullptr;
    way->through_tunnel.push_back(route == frame::Route::Tunnel);
    if (route != frame::Route::Tunnel) {
      way->slots.push_back({leaf.dtype, tensor.sizes().vec(), {}, 0, leaf.bytes});
    }
  }
  way->pattern = structure::Pattern::learn(value, encoder);
  if (way->pattern == nullptr) return nullptr;
  way->tunnel = tunnel;
  way->bytes = bytes;
  return way;
}

}  // namespace

void Packer::set_names(std::vector<std::string> names) {
  root_ = std::make_shared<const frame::Root>(root_->text, std::move(names));
  verifier_.root = *root_;
}

std::unique_ptr<Encoder> Packer::encode(PyObject* value, Encoder::Leaves leaves) {
  std::unique_ptr<Encoder> encoder = spare ? std::move(spare) : std::make_unique<Encoder>();
  const std::shared_ptr<const frame::Root> root = root_;  // the value's own code may change it
  encoder->run(value, *root, name_.empty() ? "" : name_ + ": ", leaves);
  return encoder;
}

Ref Packer::pack(PyObject* value, PyObject* device) {
  const std::optional<at::Device> where = asked(device);
  Ref packed = pack_known(value, where);
  return packed ? std::move(packed) : pack_any(value, where);
}

// A value that differs from a remembered one in its tensors and numbers only; nothing for any other.
Ref Packer::pack_known(PyObject* value, std::optional<at::Device> device) {
  for (size_t i = 0; i < frames_.size(); ++i) {
    if (!frames_[i].pattern) continue;
    const size_t leaves = frames_[i].pattern->leaves();
    Ref packed = Ref::take(PyTuple_New(static_cast<Py_ssize_t>(leaves + 1)));
    // Making the tuple may have run code that used this codec.
    if (i >= frames_.size() || !frames_[i].pattern || frames_[i].pattern->leaves() != leaves) break;
    Remembered& known = frames_[i];
    PyObject** const items = reinterpret_cast<PyTupleObject*>(packed.get())->ob_item;
    if (!known.pattern->match(value, items)) continue;
    const at::Device where = device_of(device, items, leaves);
    const size_t capacity = capacity_for(known.used());
    count(leaves, known.leaf_bytes + capacity);
    if (known.holds_values(known.pattern->values(), where, capacity)) {
      ++stats.hits;
      items[leaves] = Py_NewRef(known.frame());
      frames_.use(i);
    } else {
      const std::shared_ptr<Remembered> kept = frames_.use(i);
      items[leaves] = kept->renew(kept->pattern->values(), where, capacity).release();
    }
    return packed;
  }
  return {};
}

Ref Packer::pack_any(PyObject* value, std::optional<at::Device> device) {
  std::unique_ptr<Encoder> encoder = encode(value, Encoder::Leaves::AsTheyAre);
  const size_t leaves = encoder->leaves.size();
  Ref packed = Ref::take(PyTuple_New(static_cast<Py_ssize_t>(leaves + 1)));
  PyObject** const items = reinterpret_cast<PyTupleObject*>(packed.get())->ob_item;
  uint64_t bytes = 0;
  for (size_t i = 0; i < leaves; ++i) {
    items[i] = Py_NewRef(encoder->leaves[i].tensor);
    bytes += encoder->leaves[i].bytes;
  }
  const frame::Header header = assemble(*encoder, {}, {}, at::kCPU);
  const std::shared_ptr<Remembered> known = frames_.find(encoder->structure, header);
  const size_t capacity = capacity_for(encoder->structure.size());
  items[leaves] = frame_for(known, *encoder, header, device_of(device, items, leaves), capacity).release();
  count(leaves, bytes + capacity);
  // What comes a second time will come again.
  if (known && !known->learned) {
    known->pattern = structure::Pattern::learn(value, *encoder);
    known->leaf_bytes = bytes;
    known->learned = true;
  }
  put_back(std::move(encoder));
  return packed;
}

Sent Packer::send(PyObject* value, PyObject* device) {
  const std::optional<at::Device> where = asked(device);
  settled = true;
  if (!dynamic_ && !router_.evaluating) {
    if (std::optional<Sent> sent = send_known(value, where)) return *std::move(sent);
  }
  return send_any(value, where);
}

// A value of which nothing is new but its tensors and numbers; nothing for any other.
std::optional<Sent> Packer::send_known(PyObject* value, std::optional<at::Device> device) {
  for (size_t i = 0; i < frames_.size(); ++i) {
    const Way* const way = frames_[i].way.get();
    if (way == nullptr) continue;
    const size_t leaves = way->through_tunnel.size();
    Held held(leaves);
    if (!way->pattern->match(value, held.objects.data()) || !travels_as_before(*way, held.objects)) continue;
    const at::Device where = device_of(device, held.objects.data(), leaves);
    const std::shared_ptr<Remembered> known = frames_.use(i);
    const size_t capacity = capacity_for(known->used());
    Sent sent{{}, {}, {}, way->tunnel};
    sent.leaves.reserve(way->tunnel.leaves());
    for (size_t k = 0; k < leaves; ++k) {
      const at::Tensor& tensor = device::unwrap(held.objects[k]);
      if (way->through_tunnel[k]) {
        sent.leaves.push_back(tensor);
      } else {
        sent.slots.push_back(device::bytes_on(tensor, way->slots[sent.slots.size()], where));
      }
    }
    count(sent.slots.size() + 1, way->bytes + capacity);
    if (known->holds_values(way->pattern->values(), where, capacity)) {
      ++stats.hits;
      sent.frame = Ref::share(known->frame());
    } else {
      sent.frame = known->renew(way->pattern->values(), where, capacity);
    }
    return sent;
  }
  return std::nullopt;
}

Sent Packer::send_any(PyObject* value, std::optional<at::Device> device) {
  std::unique_ptr<Encoder> encoder = encode(value, Encoder::Leaves::AsBytes);
  PyObject* const first = encoder->leaves.empty() ? nullptr : encoder->leaves[0].tensor;
  const at::Device where = device_of(device, &first, encoder->leaves.size());
  Routed routed = router_.route(*encoder, where, *root_, name_);
  check_signature(*encoder, routed);
  frame::Header header = assemble(*encoder, routed.payload, routed.payload_spans, where);
  const size_t capacity = capacity_for(header.used);
  const std::shared_ptr<Remembered> known = frames_.find(encoder->structure, header);
  Sent sent{frame_for(known, *encoder, header, where, capacity), {}, {}, {}};
  if (header.used != encoder->structure.size()) {
    sent.frame = device::wrap(device::with_bits(device::unwrap(sent.frame.get()), header.payload_begin(),
                                                routed.payload, routed.payload_spans));
  }
  sent.leaves.reserve(routed.tunnel.size());
  for (PyObject* const leaf : routed.tunnel) sent.leaves.push_back(device::unwrap(leaf));
  sent.slots = std::move(routed.slots);
  uint64_t bytes = tunnel_size(routed.tunnel_spans, routed.tunnel_bytes);
  for (const at::Tensor& slot : sent.slots) bytes += slot.nbytes();
  sent.tunnel = Tunnel(std::move(routed.tunnel_spans), routed.tunnel_bytes);
  count(sent.slots.size() + 1, bytes + capacity);
  // What comes a second time will come again.
  if (known && !known->way_sought && !dynamic_ && !router_.evaluating) {
    known->way_sought = true;
    known->way = way_of(value, *encoder, sent.tunnel, bytes);
  }
  put_back(std::move(encoder));
  return sent;
}

void Packer::open(Opened& arrived, PyObject* known) {
  arrived.root = root_;
  const bool verified = known == nullptr && verifier_.applies(arrived.frame());
  if (verified) {
    std::optional<Checked> expected = verifier_.expect(arrived.frame(), name_);
    if (expected) return arrived.take_for(*std::move(expected));
  }
  if (known != nullptr) {
    Opened here(known);
    here.read(&plans_);
    arrived.take_for(here.checked());
  } else {
    arrived.read(&plans_);
  }
  ++stats.reads;
  if (verified) verifier_.learn(arrived.frame(), arrived.checked());
}

void Packer::reset() {
  settled = false;
  frames_.forget_ways();
  capacity_ = configured_;
  agreed_.reset();
  router_.reset();
  verifier_.check(name_);
  verifier_.forget();
}

// The frame of what was encoded; `known` is the one of the same structure, if any.
Ref Packer::frame_for(std::shared_ptr<Remembered> known, Encoder& encoder, const frame::Header& header,
                      at::Device device, size_t capacity) {
  if (known && known->holds(encoder.structure, device, capacity)) {
    if (header.used == encoder.structure.size()) ++stats.hits;
    return Ref::share(known->frame());
  }
  if (!known) known = frames_.add(header);
  return known->renew(encoder.structure, header, device, capacity);
}

void Packer::count(size_t tensors, uint64_t bytes) {
  ++stats.frames;
  stats.messages += tensors + 1;
  stats.bytes += bytes;
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
  const std::string change = agreed_.check(encoder, routed, *root_);
  if (change.empty()) return;
  raise(structure::known().structure_changed,
        name_ + ": " + change +
            ", and with static shapes all micro-batches have the first one's sizes; pad to one shape, or set "
            "dynamic_shape=True on all ranks");
}

}  // namespace pipecodec::codec
