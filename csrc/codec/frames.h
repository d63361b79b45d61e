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

// How the leaves of one structure travel where none of them is in the frame and all are contiguous: what a
// sender need not find out again.
struct Way {
  std::unique_ptr<structure::Pattern> pattern;
  std::vector<bool> through_tunnel;  // for each leaf; else it has a slot of its own
  std::vector<device::Span> slots;   // one for each of those
  Tunnel tunnel;
  uint64_t bytes;  // of all tensors but the frame
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
  bool holds_values(const std::vector<uint8_t>& values, at::Device device, size_t capacity) const;

  // A new tensor, of these bytes (but for the header) or of the last ones with other values. Where the header
  // says that more bytes are used, the device adds them to a copy of it.
  structure::Ref renew(const frame::Writer& bytes, const frame::Header& header, at::Device device,
                       size_t capacity);
  structure::Ref renew(const std::vector<uint8_t>& values, at::Device device, size_t capacity);

  PyObject* frame() const { return frame_.get(); }
  size_t used() const { return bytes_.size(); }

  std::unique_ptr<structure::Pattern> pattern;  // of its value, once learned
  bool learned = false;                         // or found to be none that can be
  uint64_t leaf_bytes = 0;                      // of that value's tensors

  std::unique_ptr<const Way> way;  // of its leaves, once found
  bool way_sought = false;

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
  void forget_ways();
  const std::shared_ptr<Remembered>& use(size_t index);  // makes it the first

 private:
  static constexpr size_t kKept = 8;

  std::vector<std::shared_ptr<Remembered>> known_;  // the most recently used first
};

}  // namespace pipecodec::codec
