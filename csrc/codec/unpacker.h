// The receiving side: a frame and the tensors beside it become the value.
#pragma once

#include <memory>
#include <vector>

#include "csrc/codec/tunnel.h"
#include "csrc/device/bits.h"
#include "csrc/device/frame_tensor.h"
#include "csrc/device/object.h"
#include "csrc/frame/layout.h"
#include "csrc/frame/outline.h"
#include "csrc/structure/builder.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

// Whether to build a value, which needs its classes, or only to look at it.
enum class Compile { Yes, No };

// A checked structure with its shapes, and the ways to its leaves.
struct Plan {
  Plan(const uint8_t* frame, frame::Layout&& checked, Compile compile);

  frame::Layout layout;
  std::unique_ptr<const structure::Builder> value;
  bool slots_only;                     // every leaf is a slot of its own, as it is
  Tunnel tunnel;                       // which is tensors[0] if the frame was sent through one
  std::vector<device::Span> in_frame;  // the leaves that travel in it
};

// The plans of the frames met last, so that a frame of a known structure is neither checked nor compiled
// again.
class PlanCache {
 public:
  // The plan of a frame, made if it is not kept. Throws PythonError, frame::Error.
  std::shared_ptr<const Plan> find(const uint8_t* frame, size_t size);

 private:
  static constexpr size_t kKept = 64;
  static constexpr size_t kKeptBytes = 1
                                       << 21;  // of structure and shapes; their plans take some 20 times that

  struct Known {
    std::vector<uint8_t> bytes;  // structure and shapes
    std::shared_ptr<const Plan> plan;
  };
  void add(Known&& known);

  size_t bytes_ = 0;            // of structure and shapes
  std::vector<Known> known_;    // the most recently used first
  std::vector<uint8_t> last_;   // the used bytes of the last frame, already checked
  uint64_t registrations_ = 0;  // the count when the plans were made
};

// A checked frame's bytes, and its plan.
struct Checked {
  device::HostFrame bytes;
  std::shared_ptr<const Plan> plan;
};

// The received tensors and their frame, before the leaves are there.
class ReceivedFrame {
 public:
  // `tensors` is a tuple or list of which the last one can be a frame. Throws PythonError.
  explicit ReceivedFrame(PyObject* tensors);

  const at::Tensor& frame() const;
  const at::Tensor& first() const { return device::unwrap(item(0)); }
  PyObject* first_object() const { return item(0); }

  // Either of the two comes next. Reads the frame, for which the host waits; `plans` may be null. Throws
  // PythonError, frame::Error.
  void read(PlanCache* plans, Compile compile = Compile::Yes);
  void take_for(Checked known) { checked_ = std::move(known); }

  const Checked& checked() const { return checked_; }

  const frame::Layout& layout() const { return checked_.plan->layout; }
  const Tunnel& tunnel() const { return checked_.plan->tunnel; }
  std::vector<frame::Row> rows() const;

  // Throws PythonError where tensors[0] is no tunnel that holds the leaves.
  void check_tunnel(const std::string& name) const;

  // The strides of a leaf in the frame, or of its slot, if it is there; none for a contiguous one.
  std::vector<int64_t> strides(const frame::Leaf& leaf) const;

  // The value. `first_slot` is 1 where tensors[0] is the tunnel; `tunnel` are the leaves that came through
  // it.
  structure::Ref build(size_t first_slot, PyObject* tunnel) const;

  std::shared_ptr<const frame::Root> root;  // the value's name in messages; null for "outputs"

 private:
  PyObject* item(size_t i) const;
  [[noreturn]] void refuse_slot(size_t leaf, size_t first_slot) const;
  structure::Ref slot(const frame::Leaf& leaf, size_t index, size_t first_slot) const;
  std::string path(size_t leaf) const;

  structure::Ref tensors_;  // tuple
  Checked checked_;
};

}  // namespace pipecodec::codec
