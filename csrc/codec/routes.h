// The route of each leaf when differentiable leaves share one tunnel, and the memory of those decisions.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "csrc/device/bits.h"
#include "csrc/frame/outline.h"
#include "csrc/frame/places.h"
#include "csrc/structure/encode.h"

namespace pipecodec::codec {

// In bytes: a leaf that is not differentiable travels in the frame up to this size, otherwise in a slot of
// its own.
inline constexpr uint64_t kSmallLeaf = 4096;

// The most leaves that have slots of their own; further ones travel in the frame. DeepSpeed's engine
// describes the tensors of a message in 256 numbers, two and three for each of them.
inline constexpr size_t kMaxSlots = 64;

// Which leaves are differentiable. Auto: those that require a gradient when first sent. While gradients are
// disabled that is unknown: then all leaves that could require one are differentiable, or none if the
// decision is not remembered.
struct Policy {
  enum class Kind { Auto, ByDType, Paths };
  Kind kind = Kind::Auto;
  std::unordered_set<std::string> paths;  // for Paths: as describe() shows them, or uncut
};

// The leaves of one value by route.
struct Routed {
  std::vector<PyObject*> tunnel;  // borrowed from the encoder
  std::vector<device::Span> tunnel_spans;
  uint64_t tunnel_bytes = 0;
  std::vector<at::Tensor> slots;  // uint8, 1-D
  std::vector<at::Tensor> payload;
  std::vector<device::Span> payload_spans;
};

class Router {
 public:
  // With `dynamic` sizes nothing is fixed, so the choices of Auto are not remembered.
  Router(Policy policy, bool dynamic) : policy_(std::move(policy)), dynamic_(dynamic) {}

  // Writes the route of each leaf into its flags byte. Throws PythonError; messages call the value `root` and
  // the codec `name`.
  Routed route(structure::Encoder& encoder, at::Device device, const frame::Root& root,
               const std::string& name);

  void reset();

  bool evaluating = false;  // then the choices of Auto are not remembered either

 private:
  std::vector<bool> differentiable(structure::Encoder& encoder, const frame::Root& root,
                                   const std::string& name);
  std::vector<bool> remembered(structure::Encoder& encoder, const frame::Root& root, const std::string& name);
  std::vector<bool> settled(const structure::Encoder& encoder);
  std::vector<bool> named(const structure::Encoder& encoder, const frame::Root& root,
                          const std::string& name) const;
  void forget();

  static constexpr size_t kStructures = 4096;
  static constexpr size_t kBytes = 1 << 24;  // of structures and of places

  Policy policy_;
  bool dynamic_;
  bool named_before_ = false;
  std::unordered_map<std::string, std::vector<bool>> structures_;  // by their bytes without flags
  size_t structure_bytes_ = 0;
  frame::Places places_;
  std::unordered_map<uint64_t, bool> leaves_;  // by place and dtype, of Auto
};

}  // namespace pipecodec::codec
