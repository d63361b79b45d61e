#include "csrc/codec/static_shapes.h"

#include "csrc/codec/assemble.h"
#include "csrc/codec/tunnel.h"
#include "csrc/frame/outline.h"

namespace pipecodec::codec {
namespace {

using structure::Encoder;

std::vector<uint64_t> sizes_of(const Routed& routed) {
  std::vector<uint64_t> sizes{tunnel_size(routed.tunnel_spans, routed.tunnel_bytes)};
  for (const at::Tensor& slot : routed.slots) sizes.push_back(slot.nbytes());
  return sizes;
}

// A leaf inside the frame changes the size of the frame only, which capacity_for() checks.
std::vector<bool> sized_leaves(const Encoder& encoder) {
  std::vector<bool> sized;
  for (const Encoder::Leaf& leaf : encoder.leaves) {
    const uint8_t route = encoder.structure.data()[leaf.flags_at] & frame::kRouteMask;
    sized.push_back(route != static_cast<uint8_t>(frame::Route::Payload));
  }
  return sized;
}

struct Sized {
  std::string path;
  std::string text;  // float32 [4, 8]
};

std::vector<Sized> list(const frame::Writer& frame, const std::vector<bool>& sized, const frame::Root& root) {
  const frame::Layout layout = frame::parse(frame.data(), frame.size());
  std::vector<Sized> listed;
  size_t next = 0;
  for (const frame::Row& row : frame::outline(frame.data(), layout, root)) {
    if (row.leaf != static_cast<int64_t>(next)) continue;  // not a leaf, or an alias of an earlier one
    if (sized[next]) {
      listed.push_back({row.path, frame::leaf_text(layout, layout.leaves[next])});
    }
    ++next;
  }
  return listed;
}

}  // namespace

std::string StaticShapes::check(const Encoder& encoder, const Routed& routed, const frame::Root& root) {
  std::vector<uint64_t> sizes = sizes_of(routed);
  if (sizes_.empty()) {
    sizes_ = std::move(sizes);
    first_ = unrouted_frame(encoder);
    sized_ = sized_leaves(encoder);
    return {};
  }
  return sizes_ == sizes ? std::string() : difference(encoder, routed, root);
}

std::string StaticShapes::difference(const Encoder& encoder, const Routed& routed,
                                     const frame::Root& root) const {
  const std::vector<Sized> before = list(first_, sized_, root);
  const std::vector<Sized> now = list(unrouted_frame(encoder), sized_leaves(encoder), root);
  for (size_t i = 0; i < before.size() || i < now.size(); ++i) {
    if (i >= now.size()) return before[i].path + ", " + before[i].text + ", no longer crosses";
    if (i >= before.size() || before[i].path != now[i].path) {
      return now[i].path + ", " + now[i].text + ", did not cross in the first micro-batch";
    }
    if (before[i].text != now[i].text) {
      return now[i].path + " is " + now[i].text + " now and was " + before[i].text +
             " in the first micro-batch";
    }
  }
  return "the differentiable leaves take " +
         std::to_string(tunnel_size(routed.tunnel_spans, routed.tunnel_bytes)) + " bytes now and took " +
         std::to_string(sizes_[0]) + " in the first micro-batch";
}

}  // namespace pipecodec::codec
