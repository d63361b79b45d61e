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

// The device asked for; nullopt: the device of the value's first leaf with data.
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

// An encoder whose buffers have grown already. A call takes it out and puts it back at its end, since a
// value's own code may pack too.
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

// True where leaves that match the plan's shapes and dtypes also meet its other conditions.
bool go_as_planned(const SendPlan& plan, const std::vector<PyObject*>& leaves) {
  const bool gradients = c10::GradMode::is_enabled();
  for (size_t i = 0; i < leaves.size(); ++i) {
    const at::Tensor& tensor = device::unwrap(leaves[i]);
    if (device::unsendable(tensor) != nullptr || !is_contiguous(tensor) ||
        (plan.routes[i] != frame::Route::Tunnel && gradients && tensor.requires_grad())) {
      return false;
    }
  }
  return true;
}

// Null where no matcher can be made for the value.
std::unique_ptr<SendPlan> plan_of(PyObject* value, const Encoder& encoder) {
  std::unique_ptr<structure::Matcher> matcher = structure::Matcher::learn(value, encoder);
  if (matcher == nullptr) return nullptr;
  auto plan = std::make_unique<SendPlan>();
  plan->matcher = std::move(matcher);
  for (const Encoder::Leaf& leaf : encoder.leaves) plan->bytes += leaf.bytes;
  return plan;
}

// Null too where a leaf is not contiguous.
std::unique_ptr<SendPlan> plan_of(PyObject* value, const Encoder& encoder, const Routed& routed) {
  for (const Encoder::Leaf& leaf : encoder.leaves) {
    if (!is_contiguous(device::unwrap(leaf.tensor))) return nullptr;
  }
  std::unique_ptr<SendPlan> plan = plan_of(value, encoder);
  if (plan == nullptr) return nullptr;
  plan->payload = routed.payload_spans;
  for (const Encoder::Leaf& leaf : encoder.leaves) {
    plan->routes.push_back(
        static_cast<frame::Route>(encoder.structure.data()[leaf.flags_at] & frame::kRouteMask));
    if (plan->routes.back() == frame::Route::RawSlot) {
      plan->slots.push_back({leaf.dtype, device::unwrap(leaf.tensor).sizes().vec(), {}, 0, leaf.bytes});
    }
  }
  return plan;
}

uint64_t payload_bytes(const std::vector<device::Span>& spans) {
  return spans.empty() ? 0 : spans.back().place + frame::round_up(spans.back().bytes, frame::kAlignment);
}

std::vector<uint8_t> on_the_host(const std::vector<at::Tensor>& tensors,
                                 const std::vector<device::Span>& spans) {
  std::vector<uint8_t> made(payload_bytes(spans));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor bytes = device::bytes_on(tensors[i], spans[i], at::kCPU);
    if (spans[i].bytes != 0) std::memcpy(&made[spans[i].place], bytes.const_data_ptr(), spans[i].bytes);
  }
  return made;
}

// Has the device write the payload into a copy of the frame.
void add_payload(Ref& frame, uint64_t begin, const std::vector<at::Tensor>& payload,
                 const std::vector<device::Span>& spans) {
  frame = device::wrap(device::with_bits(device::unwrap(frame.get()), begin, payload, spans));
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

// Packs a value that differs from a remembered one in its tensors and numbers only; null for any other.
Ref Packer::pack_known(PyObject* value, std::optional<at::Device> device) {
  for (size_t i = 0; i < cache_.size(); ++i) {
    if (!cache_[i].plan || !cache_[i].plan->routes.empty()) continue;
    const size_t leaves = cache_[i].plan->matcher->leaves();
    Ref packed = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(leaves + 1)));
    // Making the tuple may have run code that used this codec.
    if (i >= cache_.size() || !cache_[i].plan || cache_[i].plan->matcher->leaves() != leaves) break;
    CachedFrame& known = cache_[i];
    const SendPlan& plan = *known.plan;
    PyObject** const items = reinterpret_cast<PyTupleObject*>(packed.get())->ob_item;
    if (!plan.matcher->match(value, items)) continue;
    const at::Device where = device_of(device, items, leaves);
    const size_t capacity = capacity_for(known.used());
    count(leaves, plan.bytes + capacity);
    if (known.holds(plan.matcher->values(), {}, where, capacity)) {
      ++stats.hits;
      items[leaves] = Py_NewRef(known.frame());
      cache_.use(i);
    } else {
      const std::shared_ptr<CachedFrame> kept = cache_.use(i);
      items[leaves] = kept->renew(plan.matcher->values(), {}, where, capacity).release();
    }
    return packed;
  }
  return {};
}

Ref Packer::pack_any(PyObject* value, std::optional<at::Device> device) {
  std::unique_ptr<Encoder> encoder = encode(value, Encoder::Leaves::AsTheyAre);
  const size_t leaves = encoder->leaves.size();
  Ref packed = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(leaves + 1)));
  PyObject** const items = reinterpret_cast<PyTupleObject*>(packed.get())->ob_item;
  uint64_t bytes = 0;
  for (size_t i = 0; i < leaves; ++i) {
    items[i] = Py_NewRef(encoder->leaves[i].tensor);
    bytes += encoder->leaves[i].bytes;
  }
  const frame::Header header = assemble(*encoder, {}, {}, at::kCPU);
  const std::shared_ptr<CachedFrame> known = cache_.find(encoder->structure, header);
  const size_t capacity = capacity_for(encoder->structure.size());
  items[leaves] = frame_for(known, *encoder, header, device_of(device, items, leaves), capacity).release();
  count(leaves, bytes + capacity);
  // A structure seen twice is expected again.
  if (known && !known->planned) {
    known->plan = plan_of(value, *encoder);
    known->planned = true;
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

// Sends a value that differs from a remembered one in its tensors and numbers only; nullopt for any other.
std::optional<Sent> Packer::send_known(PyObject* value, std::optional<at::Device> device) {
  for (size_t i = 0; i < cache_.size(); ++i) {
    const SendPlan* const plan = cache_[i].plan.get();
    if (plan == nullptr || plan->routes.size() != plan->matcher->leaves()) continue;
    const size_t leaves = plan->routes.size();
    Held held(leaves);
    if (!plan->matcher->match(value, held.objects.data()) || !go_as_planned(*plan, held.objects)) continue;
    const at::Device where = device_of(device, held.objects.data(), leaves);
    // Where the host fills in the payload, it is part of the frame's bytes.
    if (!plan->payload.empty() && where != plan->device) continue;
    const std::shared_ptr<CachedFrame> known = cache_.use(i);
    const size_t capacity = capacity_for(known->used());
    Sent sent{{}, {}, {}, plan->tunnel, {}};
    sent.leaves.reserve(plan->tunnel.leaves());
    std::vector<at::Tensor> payload;
    for (size_t k = 0; k < leaves; ++k) {
      const at::Tensor& tensor = device::unwrap(held.objects[k]);
      switch (plan->routes[k]) {
        case frame::Route::Tunnel:
          sent.leaves.push_back(tensor);
          break;
        case frame::Route::Payload:
          payload.push_back(tensor);
          break;
        case frame::Route::Slot:
        case frame::Route::RawSlot:
          sent.slots.push_back(device::bytes_on(tensor, plan->slots[sent.slots.size()], where));
          break;
      }
    }
    count(sent.slots.size() + 1, plan->bytes + capacity);
    const bool by_device = !where.is_cpu() && !payload.empty();
    const std::vector<uint8_t> bytes =
        by_device ? std::vector<uint8_t>() : on_the_host(payload, plan->payload);
    if (known->holds(plan->matcher->values(), bytes, where, capacity)) {
      if (!by_device) ++stats.hits;
      sent.frame = Ref::borrow(known->frame());
    } else {
      sent.frame = known->renew(plan->matcher->values(), bytes, where, capacity);
    }
    if (announce) sent.bytes = known->bytes();
    if (by_device) add_payload(sent.frame, known->payload_begin(), payload, plan->payload);
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
  const std::shared_ptr<CachedFrame> known = cache_.find(encoder->structure, header);
  const std::shared_ptr<CachedFrame> frame = known ? known : cache_.add(header);
  Sent sent{frame_for(frame, *encoder, header, where, capacity), {}, {}, {}, {}};
  if (announce) sent.bytes = frame->bytes();
  if (header.used != encoder->structure.size()) {
    add_payload(sent.frame, header.payload_begin(), routed.payload, routed.payload_spans);
  }
  sent.leaves.reserve(routed.tunnel.size());
  for (PyObject* const leaf : routed.tunnel) sent.leaves.push_back(device::unwrap(leaf));
  sent.slots = std::move(routed.slots);
  uint64_t bytes = tunnel_size(routed.tunnel_spans, routed.tunnel_bytes);
  for (const at::Tensor& slot : sent.slots) bytes += slot.nbytes();
  sent.tunnel = Tunnel(std::move(routed.tunnel_spans), routed.tunnel_bytes);
  count(sent.slots.size() + 1, bytes + capacity);
  // A structure seen twice is expected again.
  if (known && !known->planned && !dynamic_ && !router_.evaluating) {
    known->planned = true;
    if (std::unique_ptr<SendPlan> plan = plan_of(value, *encoder, routed)) {
      plan->tunnel = sent.tunnel;
      plan->bytes = bytes;
      plan->device = where;
      known->plan = std::move(plan);
    }
  }
  put_back(std::move(encoder));
  return sent;
}

void Packer::open(ReceivedFrame& arrived, PyObject* known) {
  arrived.root = root_;
  const bool verified = known == nullptr && verifier_.applies(arrived.frame());
  if (verified) {
    std::optional<Checked> expected = verifier_.expect(arrived.frame(), name_);
    if (expected) return arrived.take_for(*std::move(expected));
  }
  if (known != nullptr) {
    ReceivedFrame here(known);
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
  cache_.forget_plans();
  capacity_ = configured_;
  static_shapes_.reset();
  router_.reset();
  verifier_.reset(name_);
}

// The frame of the encoded value; `known` is the remembered one of the same structure, if any.
Ref Packer::frame_for(std::shared_ptr<CachedFrame> known, Encoder& encoder, const frame::Header& header,
                      at::Device device, size_t capacity) {
  if (known && known->holds(encoder.structure, device, capacity)) {
    if (header.used == encoder.structure.size()) ++stats.hits;
    return Ref::borrow(known->frame());
  }
  if (!known) known = cache_.add(header);
  return known->renew(encoder.structure, header, device, capacity);
}

void Packer::count(size_t tensors, uint64_t bytes) {
  ++stats.frames;
  stats.messages += tensors + 1;
  stats.bytes += bytes;
}

// The first frame of a boundary fixes its capacity: a quarter more than it uses, at least one step more, so
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
              "; set capacity=" + std::to_string(frame::round_up(used, frame::kCapacityStep)) +
              " or more, or dynamic_shape=True" + kOnAllRanks);
  }
  return *capacity_;
}

void Packer::check_signature(const Encoder& encoder, const Routed& routed) {
  if (dynamic_) return;
  const std::string change = static_shapes_.check(encoder, routed, *root_);
  if (change.empty()) return;
  raise(structure::known().structure_changed,
        name_ + ": " + change +
            ", and with static shapes all micro-batches have the first one's sizes; pad to one shape, or set "
            "dynamic_shape=True" +
            kOnAllRanks);
}

}  // namespace pipecodec::codec
