// The frames that a sender made last: an unchanged one is sent again as the same tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "csrc/codec/tunnel.h"
#include "csrc/device/bits.h"
#include "csrc/frame/bytes.h"
#include "csrc/frame/header.h"
#include "csrc/structure/matcher.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

// How to send a value of a known structure and shapes without encoding it. For values that go through a
// tunnel, only if all leaves are contiguous.
struct SendPlan {
  std::unique_ptr<structure::Matcher> matcher;
  std::vector<frame::Route> routes;   // of each leaf; empty if all are sent as they are
  std::vector<device::Span> slots;    // of each leaf with a slot of its own
  std::vector<device::Span> payload;  // of each leaf in the frame
  Tunnel tunnel;
  uint64_t bytes = 0;            // of all tensors but the frame
  at::Device device = at::kCPU;  // of the frame
};

// The last frame of one structure with its shapes.
class CachedFrame {
 public:
  explicit CachedFrame(const frame::Header& header) : header_(header) {}

  // True where these bytes have the same structure and shapes.
  bool same_structure(const frame::Writer& bytes, const frame::Header& header) const;

  // True where the last tensor can be sent again: it holds these bytes behind the header, with this capacity,
  // was made on this device's current stream and not in inference mode (unless that is on now), and its
  // version counter shows no write. (A write through .numpy() goes unseen.)
  bool holds(const frame::Writer& bytes, at::Device device, size_t capacity) const;
  bool holds(const std::vector<uint8_t>& values, const std::vector<uint8_t>& payload, at::Device device,
             size_t capacity) const;

  // Makes a new tensor, of these bytes (but for the header) or of the last ones with other values and
  // payload. Where the header counts more bytes than these, the device adds them to a copy of the tensor.
  structure::Ref renew(const frame::Writer& bytes, const frame::Header& header, at::Device device,
                       size_t capacity);
  structure::Ref renew(const std::vector<uint8_t>& values, const std::vector<uint8_t>& payload,
                       at::Device device, size_t capacity);

  PyObject* frame() const { return frame_.get(); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }  // those that the host writes
  size_t used() const { return header_.used; }
  size_t payload_begin() const { return header_.payload_begin(); }

  std::unique_ptr<const SendPlan> plan;  // for its values, once made
  bool planned = false;                  // true too if no plan is possible

 private:
  bool reusable(at::Device device, size_t capacity) const;
  structure::Ref make(at::Device device, size_t capacity);

  frame::Header header_;
  std::vector<uint8_t> bytes_;
  structure::Ref frame_;  // null while it does not hold bytes_
  int64_t stream_ = 0;    // on which it was made
  uint32_t version_ = 0;
  uint64_t makes_ = 0;
};

// The few frames used last. Any call that may run Python code or other threads may change them: every
// allocation of an object may, through the garbage collector, and so may freeing a tensor. Tensors are
// therefore released last.
class FrameCache {
 public:
  // Moves the frame of this structure to the front and returns it; null where none is known.
  std::shared_ptr<CachedFrame> find(const frame::Writer& bytes, const frame::Header& header);
  std::shared_ptr<CachedFrame> add(const frame::Header& header);

  size_t size() const { return known_.size(); }
  CachedFrame& operator[](size_t index) const { return *known_[index]; }
  void forget_plans();
  const std::shared_ptr<CachedFrame>& use(size_t index);  // moves it to the front

 private:
  static constexpr size_t kKept = 8;

  std::vector<std::shared_ptr<CachedFrame>> known_;  // the most recently used first
};

}  // namespace pipecodec::codec
