#include "csrc/codec/mismatch.h"

#include "csrc/frame/error.h"
#include "csrc/frame/outline.h"

namespace pipecodec::codec {
namespace {

constexpr const char* kRoutes[] = {"a slot", "a raw slot", "the tunnel", "the frame"};  // by frame::Route

std::string route(const frame::Row& row, const frame::Layout& layout) {
  if (row.leaf < 0) return {};
  return kRoutes[static_cast<uint8_t>(layout.leaves[static_cast<size_t>(row.leaf)].route)];
}

std::string shown(const frame::Row& row, const frame::Layout& layout) {
  if (row.code == frame::TypeCode::None) return row.text;
  std::string text = frame::kTypeNames[static_cast<uint8_t>(row.code)];
  if (!row.text.empty()) text += ' ' + row.text;
  if (row.leaf < 0) return row.children > 0 ? text + " of " + std::to_string(row.children) : text;
  const frame::Leaf& leaf = layout.leaves[static_cast<size_t>(row.leaf)];
  return text + ' ' + frame::leaf_text(layout, leaf) + (leaf.requires_grad ? ", differentiable" : "");
}

}  // namespace

std::string mismatch(const Checked& expected, const device::HostFrame& received, const frame::Root& root) {
  frame::Layout layout;
  try {
    layout = frame::parse(received.data, received.size);
  } catch (const frame::Error& error) {
    return std::string("it is damaged: ") + error.what();
  }
  const frame::Layout& before = expected.plan->layout;
  const std::vector<frame::Row> was = frame::outline(expected.bytes.data, before, root);
  const std::vector<frame::Row> is = frame::outline(received.data, layout, root);
  for (size_t i = 0; i < was.size() && i < is.size(); ++i) {
    const std::string then = shown(was[i], before), now = shown(is[i], layout);
    if (was[i].path != is[i].path) return is[i].path + " is there now, where " + was[i].path + " was";
    if (then != now) return is[i].path + " is " + now + " now and was " + then;
    const std::string from = route(was[i], before), to = route(is[i], layout);
    if (from != to) return is[i].path + " is in " + to + " now and was in " + from;
  }
  return "the difference is in a part too long to show";
}

}  // namespace pipecodec::codec
