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

const std::vector<bool>& Router::differentiable(Encoder& encoder, const std::string& root,
                                                const std::string& name) {
  uint8_t* const bytes = encoder.structure.data();
  for (const Encoder::Leaf& leaf : encoder.leaves) bytes[leaf.flags_at] = 0;
  const uint64_t key =
      frame::xxh64(bytes + frame::kHeaderBytes, encoder.structure.size() - frame::kHeaderBytes);
  const auto found = known_.find(key);
  if (found != known_.end()) return found->second;
  std::vector<bool> decided(encoder.leaves.size());
  if (policy_.kind == Policy::Kind::Auto && !c10::GradMode::is_enabled() && !decided.empty()) {
    raise(structure::known().structure_changed, name +
                                                    ": this structure is met for the first time without "
                                                    "gradients, so which of its leaves are differentiable "
                                                    "cannot be seen; run its first forward with gradients "
                                                    "enabled, or name them with differentiable=");
  }
  const std::vector<std::string> paths =
      policy_.kind == Policy::Kind::Paths ? leaf_paths(encoder, root) : std::vector<std::string>();
  for (size_t i = 0; i < decided.size(); ++i) {
    const Encoder::Leaf& leaf = encoder.leaves[i];
    switch (policy_.kind) {
      case Policy::Kind::Auto:
        decided[i] = leaf.requires_grad;
        break;
      case Policy::Kind::ByDType:
        decided[i] = can_require_grad(leaf);
        break;
      case Policy::Kind::Paths:
        decided[i] = policy_.paths.contains(paths[i]);
        break;
    }
    if (decided[i] && !can_require_grad(leaf)) {
      raise(structure::known().unsupported_type,
            name + ": " + path_of(encoder, i, root) +
                " is named differentiable, but its dtype has no gradients");
    }
  }
  if (known_.size() == kRemembered) known_.clear();  // each is decided again when it comes again
  return known_.emplace(key, std::move(decided)).first->second;
}

Routed Router::route(Encoder& encoder, at::Device device, const std::string& root, const std::string& name) {
  const std::vector<bool>& decided = differentiable(encoder, root, name);
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
      raise(structure::known().structure_changed,
            name + ": " + path_of(encoder, i, root) +
                " requires a gradient now, but did not in this structure's first "
                "forward; call reset() on this boundary's codecs on all ranks after unfreezing parameters");
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
