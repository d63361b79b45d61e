// The sending side of one boundary: a value becomes tensors, and an unchanged frame is the same tensor again.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "csrc/codec/frame_cache.h"
#include "csrc/codec/nodes.h"
#include "csrc/codec/routes.h"
#include "csrc/codec/static_shapes.h"
#include "csrc/codec/tunnel.h"
#include "csrc/codec/unpacker.h"
#include "csrc/codec/verifier.h"
#include "csrc/frame/header.h"
#include "csrc/structure/encode.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

struct Stats {
  uint64_t frames = 0;    // packed
  uint64_t hits = 0;      // of them, those sent as the same tensor again
  uint64_t bytes = 0;     // of all tensors packed
  uint64_t messages = 0;  // tensors packed
  uint64_t reads = 0;     // frames read by the host
};

// A value ready for a tunnel: its frame, its slots, and the leaves that are still to be gathered into the
// tunnel.
struct Sent {
  structure::Ref frame;
  std::vector<at::Tensor> leaves;
  std::vector<at::Tensor> slots;  // uint8
  Tunnel tunnel;
  std::vector<uint8_t> bytes;  // of the frame, as far as the host knows them, if the packer announces it
};

class Packer {
 public:
  // With `dynamic` sizes every frame is as large as needed, and no sizes are fixed.
  Packer(std::string name, std::optional<size_t> capacity, Policy policy, bool dynamic, Verifier verifier)
      : name_(std::move(name)),
        configured_(capacity),
        capacity_(capacity),
        dynamic_(dynamic),
        router_(std::move(policy), dynamic),
        verifier_(std::move(verifier)),
        root_(std::make_shared<const frame::Root>("outputs")) {}

  // Returns a tuple: every leaf as a slot of its own, then the frame.
  structure::Ref pack(PyObject* value, PyObject* device);
  Sent send(PyObject* value, PyObject* device);

  // Reads or recognises the frame of tensors that pack or send made. `known` is a tuple with a copy of the
  // frame on the CPU, or null. Throws PythonError, frame::Error.
  void open(ReceivedFrame& arrived, PyObject* known = nullptr);

  // Returns once every frame opened so far is known to be right. Throws PythonError.
  void check() { verifier_.check(name_); }

  // Forgets the agreed capacity, sizes and differentiable leaves, and the expected frames. Then throws as
  // check does.
  void reset();

  // True while values are sent for an evaluation.
  bool evaluating() const { return router_.evaluating; }
  void set_evaluating(bool on) { router_.evaluating = on; }

  const std::string& name() const { return name_; }

  // The items' names in messages, where the value is a tuple or a list of as many; empty: outputs[i].
  const std::vector<std::string>& names() const { return root_->names; }
  void set_names(std::vector<std::string> names);
  Stats stats;

  const std::shared_ptr<Ends> ends = make_ends();
  structure::Ref announce;   // called with the tensors sent and their frame's bytes, or null
  structure::Ref in_flight;  // deque of (Tunnel, weak reference to the tensor sent), or null
  bool settled = false;      // a value was sent since the last reset

 private:
  structure::Ref pack_known(PyObject* value, std::optional<at::Device> device);
  structure::Ref pack_any(PyObject* value, std::optional<at::Device> device);
  Sent send_any(PyObject* value, std::optional<at::Device> device);
  std::optional<Sent> send_known(PyObject* value, std::optional<at::Device> device);
  std::unique_ptr<structure::Encoder> encode(PyObject* value, structure::Encoder::Leaves leaves);
  structure::Ref frame_for(std::shared_ptr<CachedFrame> known, structure::Encoder& encoder,
                           const frame::Header& header, at::Device device, size_t capacity);
  void count(size_t tensors, uint64_t bytes);  // tensors without the frame, bytes with it
  size_t capacity_for(size_t used);
  void check_signature(const structure::Encoder& encoder, const Routed& routed);

  std::string name_;
  std::optional<size_t> configured_;
  std::optional<size_t> capacity_;
  bool dynamic_;
  Router router_;
  PlanCache plans_;  // for the frames that this codec receives
  Verifier verifier_;

  std::shared_ptr<const frame::Root> root_;

  FrameCache cache_;
  StaticShapes static_shapes_;
};

}  // namespace pipecodec::codec
