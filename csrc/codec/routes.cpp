#include "csrc/codec/routes.h"

#include <c10/core/GradMode.h>

#include "csrc/codec/assemble.h"
#include "csrc/codec/errors.h"
#include "csrc/device/object.h"
#include "csrc/device/transfer.h"
#include "csrc/frame/header.h"
#include "csrc/frame/xxh64.h"

namespace pipecodec::codec {
namespace {

using structure::Encoder;

bool can_require_grad(const Encoder::Leaf& leaf) {
  const at::ScalarType type = device::scalar_type(leaf.dtype);
  return c10::isFloatingType(type) || c10::isComplexType(type);
}

device::Span span_of(const Encoder::Leaf& leaf, const at::Tensor& tensor, uint64_t& end) {
  const device::Span span{leaf.dtype, tensor.sizes().vec(), end, leaf.bytes};
  end += frame::round_up(leaf.bytes, frame::kAlignment);
  return span;
}

}  // namespace

std::vector<bool> Router::differentiable(Encoder& encoder, const std::string& root, const std::string& name) {
  std::vector<bool> decided;
  if (policy_.kind == Policy::Kind::ByDType) {
    for (const Encoder::Leaf& leaf : encoder.leaves) decided.push_back(can_require_grad(leaf));
  } else if (policy_.kind == Policy::Kind::Auto && (dynamic_ || evaluating)) {
    const bool gradients = c10::GradMode::is_enabled();
    for (const Encoder::Leaf& leaf : encoder.leaves) decided.push_back(gradients && leaf.requires_grad);
  } else {
    decided = remembered(encoder, root);
  }
  for (size_t i = 0; i < decided.size(); ++i) {
    if (!decided[i] || can_require_grad(encoder.leaves[i])) continue;
    raise(
        structure::known().unsupported_type,
        name + ": " + path_of(encoder, i, root) + " is named differentiable, but its dtype has no gradients");
  }
  return decided;
}

// Paths take a while to write, so a structure that is met again is recognised by its bytes.
std::vector<bool> Router::remembered(Encoder& encoder, const std::string& root) {
  uint8_t* const bytes = encoder.structure.data();
  for (const Encoder::Leaf& leaf : encoder.leaves) bytes[leaf.flags_at] = 0;
  const uint64_t key =
      frame::xxh64(bytes + frame::kHeaderBytes, encoder.structure.size() - frame::kHeaderBytes);
  const auto found = structures_.find(key);
  if (found != structures_.end()) return found->second;
  const std::vector<std::string> paths = leaf_paths(encoder, root);
  std::vector<bool> decided;
  for (size_t i = 0; i < encoder.leaves.size(); ++i) {
    decided.push_back(policy_.kind == Policy::Kind::Paths ? policy_.paths.contains(paths[i])
                                                          : agreed(encoder.leaves[i], paths[i]));
  }
  if (structures_.size() == kStructures) structures_.clear();  // each is decided again, as it was
  structures_.emplace(key, decided);
  return decided;
}

// The same in every structure that has this leaf, since a string, a bool or a None beside it may differ.
bool Router::agreed(const Encoder::Leaf& leaf, const std::string& path) {
  const std::string key = std::to_string(static_cast<unsigned>(leaf.dtype)) + path;
  const auto found = leaves_.find(key);
  if (found != leaves_.end()) return found->second;
  if (leaves_.size() == kLeaves) leaves_.clear();
  const bool decided = c10::GradMode::is_enabled() ? leaf.requires_grad : can_require_grad(leaf);
  leaves_.emplace(key, decided);
  return decided;
}

void Router::reset() {
  structures_.clear();
  leaves_.clear();
}

Routed Router::route(Encoder& encoder, at::Device device, const std::string& root, const std::string& name) {
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
      raise(
          structure::known().structure_changed,
          name + ": " + path_of(encoder, i, root) +
              " requires a gradient now, but did not when it was first sent; after unfreezing parameters "
              "call "
              "reset() on this boundary's codecs on all ranks (engine.reset_activation_shape() does), and if "
              "it requires one at some times only, set differentiable=\"by-dtype\" or dynamic_shape=True");
    }
    frame::Route way = frame::Route::RawSlot;
    if (decided[i]) {
      way = frame::Route::Tunnel;
      routed.tunnel.push_back(leaf.tensor);
      routed.tunnel_spans.push_back(span_of(leaf, tensor, routed.tunnel_bytes));
    } else if (leaf.bytes <= kSmallLeaf || routed.slots.size() == kMaxSlots) {
      way = frame::Route::Payload;
      routed.payload.push_back(tensor);
      routed.payload_spans.push_back(span_of(leaf, tensor, payload_bytes));
    } else {
      routed.slots.push_back(device::bytes_on(tensor, device));
      routed.slot_leaves.push_back(i);
    }
    encoder.structure.data()[leaf.flags_at] =
        static_cast<uint8_t>(static_cast<uint8_t>(way) | (decided[i] ? frame::kRequiresGradBit : 0));
  }
  return routed;
}

}  // namespace pipecodec::codec
