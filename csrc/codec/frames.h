// The frames that a sender made last, so that an unchanged one is the tensor that it was.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "csrc/codec/tunnel.h"
#include "csrc/device/bits.h"
#include "csrc/frame/bytes.h"
#include "csrc/frame/header.h"
#include "csrc/structure/pattern.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

// How values of one structure with its shapes are sent: what a sender need not find out again. Of values that
// go through a tunnel, those only whose leaves are contiguous.
struct SendPlan {
  std::unique_ptr<structure::Pattern> matcher;
  std::vector<frame::Route> routes;   // of each leaf; none where each is handed on as it is
  std::vector<device::Span> slots;    // of each leaf with a slot of its own
  std::vector<device::Span> payload;  // of each leaf in the frame
  Tunnel tunnel;
  uint64_t bytes = 0;            // of all tensors but the frame
  at::Device device = at::kCPU;  // of the frame
};

// The last frame of one structure with its shapes.
class Remembered {
 public:
  explicit Remembered(const frame::Header& header) : header_(header) {}

  // True where the frame would be of the same structure and shapes.
  bool same_structure(const frame::Writer& bytes, const frame::Header& header) const;

  // True where the tensor at hand holds these bytes behind the header, on this device's current stream and
  // with this capacity, may be used outside of inference mode if this is, and nobody was seen to have written
  // into it. (What was written through .numpy() goes unseen.)
  bool holds(const frame::Writer& bytes, at::Device device, size_t capacity) const;
  bool holds(const std::vector<uint8_t>& values, const std::vector<uint8_t>& payload, at::Device device,
             size_t capacity) const;

  // A new tensor, of these bytes (but for the header) or of the last ones with other values and payload.
  // Where the header says that more bytes are used, the device adds them to a copy of it.
  structure::Ref renew(const frame::Writer& bytes, const frame::Header& header, at::Device device,
                       size_t capacity);
  structure::Ref renew(const std::vector<uint8_t>& values, const std::vector<uint8_t>& payload,
                       at::Device device, size_t capacity);

  PyObject* frame() const { return frame_.get(); }
  size_t used() const { return header_.used; }
  size_t payload_begin() const { return header_.payload_begin(); }

  std::unique_ptr<const SendPlan> plan;  // of its values, once made
  bool planned = false;                  // or found to be impossible

 private:
  bool reusable(at::Device device, size_t capacity) const;
  structure::Ref make(at::Device device, size_t capacity);

  frame::Header header_;
  std::vector<uint8_t> bytes_;
  structure::Ref frame_;  // null while it would not be of bytes_
  int64_t stream_ = 0;    // on which it was made
  uint32_t version_ = 0;
  uint64_t makes_ = 0;
};

// The few that were used last. Whatever may run Python code, or let other threads run, may change them too:
// every allocation of an object may, through the garbage collector, and so may the end of a tensor. Tensors
// are therefore let go of last.
class Frames {
 public:
  // The one of this structure, made the first; null where it is not known.
  std::shared_ptr<Remembered> find(const frame::Writer& bytes, const frame::Header& header);
  std::shared_ptr<Remembered> add(const frame::Header& header);

  size_t size() const { return known_.size(); }
  Remembered& operator[](size_t index) const { return *known_[index]; }
  void forget_plans();
  const std::shared_ptr<Remembered>& use(size_t index);  // makes it the first

 private:
  static constexpr size_t kKept = 8;

  std::vector<std::shared_ptr<Remembered>> known_;  // the most recently used first
};

}  // namespace pipecodec::codec
