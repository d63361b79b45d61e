// How each leaf travels when differentiable leaves share one tunnel, and how that is remembered.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "csrc/device/bits.h"
#include "csrc/structure/encode.h"

namespace pipecodec::codec {

// A leaf that is not differentiable travels in the frame up to this size, above it in a slot of its own. In
// bytes.
inline constexpr uint64_t kSmallLeaf = 4096;

// Of larger leaves, only so many have slots; the rest travels in the frame. DeepSpeed's engine describes the
// tensors of a message in 256 numbers, two and three for each of them.
inline constexpr size_t kMaxSlots = 64;

// Which leaves are differentiable.
struct Policy {
  enum class Kind { Auto, ByDType, Paths };
  Kind kind = Kind::Auto;
  std::unordered_set<std::string> paths;  // for Paths, as describe() shows them
};

// The leaves of one value by the way they travel.
struct Routed {
  std::vector<PyObject*> tunnel;  // borrowed from the encoder
  std::vector<device::Span> tunnel_spans;
  uint64_t tunnel_bytes = 0;
  std::vector<at::Tensor> slots;  // uint8, 1-D
  std::vector<size_t> slot_leaves;
  std::vector<at::Tensor> payload;
  std::vector<device::Span> payload_spans;
};

class Router {
 public:
  explicit Router(Policy policy) : policy_(std::move(policy)) {}

  // Writes the route of each leaf into its flags byte. Throws PythonError, in messages calling the value
  // `root` and the codec `name`.
  Routed route(structure::Encoder& encoder, at::Device device, const std::string& root,
               const std::string& name);

  void reset() { known_.clear(); }

 private:
  const std::vector<bool>& differentiable(structure::Encoder& encoder, const std::string& root,
                                          const std::string& name);

  static constexpr size_t kRemembered = 4096;

  Policy policy_;
  std::unordered_map<uint64_t, std::vector<bool>> known_;  // by the hash of the structure without flags
};

}  // namespace pipecodec::codec
