#include "csrc/codec/routes.h"

#include <c10/core/GradMode.h>

#include "csrc/codec/assemble.h"
#include "csrc/codec/errors.h"
#include "csrc/device/object.h"
#include "csrc/device/transfer.h"
#include "csrc/frame/header.h"

namespace pipecodec::codec {
namespace {

using structure::Encoder;

bool can_require_grad(const Encoder::Leaf& leaf) {
  const at::ScalarType type = device::scalar_type(leaf.dtype);
  return c10::isFloatingType(type) || c10::isComplexType(type);
}

device::Span span_of(const Encoder::Leaf& leaf, const at::Tensor& tensor, uint64_t room, uint64_t& end) {
  device::Span span{leaf.dtype, tensor.sizes().vec(), leaf.strides, end, leaf.bytes};
  end += frame::round_up(room, frame::kAlignment);
  return span;
}

// The leaves at each wanted path.
class Paths {
 public:
  Paths(const frame::Writer& frame, const frame::Layout& layout, const frame::Root& root, bool whole,
        const std::unordered_set<std::string>& wanted) {
    frame::each_leaf_path(frame.data(), layout, root, whole, [&](const std::string& path) {
      if (wanted.contains(path)) found_[path].push_back(leaf_);
      ++leaf_;
    });
  }

  const std::vector<size_t>& at(const std::string& path) const {
    static const std::vector<size_t> none;
    const auto found = found_.find(path);
    return found == found_.end() ? none : found->second;
  }

 private:
  size_t leaf_ = 0;
  std::unordered_map<std::string, std::vector<size_t>> found_;
};

}  // namespace

std::vector<bool> Router::differentiable(Encoder& encoder, const frame::Root& root, const std::string& name) {
  std::vector<bool> decided;
  if (policy_.kind == Policy::Kind::ByDType) {
    for (const Encoder::Leaf& leaf : encoder.leaves) decided.push_back(can_require_grad(leaf));
  } else if (policy_.kind == Policy::Kind::Auto && (dynamic_ || evaluating)) {
    const bool gradients = c10::GradMode::is_enabled();
    for (const Encoder::Leaf& leaf : encoder.leaves) decided.push_back(gradients && leaf.requires_grad);
  } else {
    decided = remembered(encoder, root, name);
  }
  for (size_t i = 0; i < decided.size(); ++i) {
    if (!decided[i] || can_require_grad(encoder.leaves[i])) continue;
    raise(
        structure::known().unsupported_type,
        name + ": " + path_of(encoder, i, root) + " is named differentiable, but its dtype has no gradients");
  }
  return decided;
}

// Finding places takes long, so a known structure is recognised by its bytes.
std::vector<bool> Router::remembered(Encoder& encoder, const frame::Root& root, const std::string& name) {
  uint8_t* const bytes = encoder.structure.data();
  for (const Encoder::Leaf& leaf : encoder.leaves) bytes[leaf.flags_at] = 0;
  std::string key(reinterpret_cast<const char*>(bytes) + frame::kHeaderBytes,
                  encoder.structure.size() - frame::kHeaderBytes);
  const auto found = structures_.find(key);
  if (found != structures_.end()) return found->second;
  if (structures_.size() >= kStructures || structure_bytes_ + places_.bytes() > kBytes) forget();
  std::vector<bool> decided =
      policy_.kind == Policy::Kind::Paths ? named(encoder, root, name) : settled(encoder);
  named_before_ = true;
  structure_bytes_ += key.size();
  structures_.emplace(std::move(key), decided);
  return decided;
}

// Decides the same for a leaf's place in every structure, since a string, a bool or a None beside it may
// change the structure.
std::vector<bool> Router::settled(const Encoder& encoder) {
  frame::Header header;
  header.structure_bytes = static_cast<uint32_t>(encoder.structure.size() - frame::kHeaderBytes);
  const std::vector<uint32_t> places = places_.of(encoder.structure.data(), header);
  std::vector<bool> decided;
  for (size_t i = 0; i < encoder.leaves.size(); ++i) {
    const Encoder::Leaf& leaf = encoder.leaves[i];
    const uint64_t key = uint64_t{places[i]} << 8 | static_cast<uint8_t>(leaf.dtype);
    const bool now = c10::GradMode::is_enabled() ? leaf.requires_grad : can_require_grad(leaf);
    decided.push_back(leaves_.emplace(key, now).first->second);
  }
  return decided;
}

std::vector<bool> Router::named(const Encoder& encoder, const frame::Root& root,
                                const std::string& name) const {
  std::vector<bool> decided(encoder.leaves.size());
  if (policy_.paths.empty()) return decided;
  const frame::Writer frame = unrouted_frame(encoder);
  const frame::Layout layout = frame::parse(frame.data(), frame.size());
  // A name is compared with exact paths first, then with shown ones; for named items also with outputs[i].
  std::vector<Paths> ways;
  for (const bool whole : {true, false}) {
    ways.emplace_back(frame, layout, root, whole, policy_.paths);
    if (!root.names.empty()) ways.emplace_back(frame, layout, frame::Root(root.text), whole, policy_.paths);
  }
  for (const std::string& path : policy_.paths) {
    const std::vector<size_t>* leaves = nullptr;
    for (const Paths& way : ways) {
      leaves = &way.at(path);
      if (!leaves->empty()) break;
    }
    if (leaves->size() > 1) {
      raise(structure::known().unsupported_type,
            name + ": differentiable names " + path + ", which is the path of " +
                std::to_string(leaves->size()) + " tensors, as far as it is shown; give them other keys");
    }
    if (leaves->empty() && !dynamic_ && !evaluating && !named_before_) {
      raise(structure::known().unsupported_type,
            name + ": differentiable names " + path + ", and no tensor of the first value stands there" +
                (encoder.leaves.empty() ? "" : "; the first one is " + path_of(encoder, 0, root)) +
                ". describe() shows the paths");
    }
    if (!leaves->empty()) decided[leaves->front()] = true;
  }
  return decided;
}

void Router::forget() {
  structures_.clear();
  structure_bytes_ = 0;
  places_.clear();
  leaves_.clear();
}

void Router::reset() {
  forget();
  named_before_ = false;
}

Routed Router::route(Encoder& encoder, at::Device device, const frame::Root& root, const std::string& name) {
  const std::vector<bool> decided = differentiable(encoder, root, name);
  const bool gradients = c10::GradMode::is_enabled();
  Routed routed;
  uint64_t payload_bytes = 0;
  for (size_t i = 0; i < encoder.leaves.size(); ++i) {
    const Encoder::Leaf& leaf = encoder.leaves[i];
    const at::Tensor& tensor = device::unwrap(leaf.tensor);
    if (const char* const why = device::unsendable(tensor)) {
      raise(structure::known().unsupported_type, name + ": " + path_of(encoder, i, root) + ' ' + why);
    }
    if (gradients && leaf.requires_grad && !decided[i]) {
      if (policy_.kind == Policy::Kind::Paths) {
        raise(structure::known().structure_changed,
              name + ": " + path_of(encoder, i, root) +
                  " requires a gradient, and is not among the paths that differentiable names; name it, or "
                  "send it detached");
      }
      raise(structure::known().structure_changed,
            name + ": " + path_of(encoder, i, root) +
                " requires a gradient now, but did not when it was first sent; after unfreezing parameters "
                "call "
                "reset() on this boundary's codecs on all ranks (DeepSpeed's engine.reset_activation_shape() "
                "and "
                "pipecodec.pipelining.reset(stages) do), and if it requires one at some times only, set "
                "differentiable=\"by-dtype\" or dynamic_shape=True" +
                kOnAllRanks);
    }
    frame::Route way = frame::Route::RawSlot;
    if (decided[i]) {
      way = frame::Route::Tunnel;
      routed.tunnel.push_back(leaf.tensor);
      routed.tunnel_spans.push_back(span_of(leaf, tensor, leaf.room, routed.tunnel_bytes));
    } else if (leaf.bytes <= kSmallLeaf || routed.slots.size() == kMaxSlots) {
      way = frame::Route::Payload;
      routed.payload.push_back(tensor);
      routed.payload_spans.push_back(span_of(leaf, tensor, leaf.bytes, payload_bytes));
    } else {
      uint64_t unused = 0;
      routed.slots.push_back(device::bytes_on(tensor, span_of(leaf, tensor, leaf.bytes, unused), device));
    }
    encoder.structure.data()[leaf.flags_at] =
        static_cast<uint8_t>(static_cast<uint8_t>(way) | (decided[i] ? frame::kRequiresGradBit : 0) |
                             (leaf.strides.empty() ? 0 : frame::kStridesBit));
  }
  return routed;
}

}  // namespace pipecodec::codec
