// A frame's structure as rows of text, for people: in messages, in describe(), in reports.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "csrc/frame/codes.h"
#include "csrc/frame/layout.h"

namespace pipecodec::frame {

// The most bytes that a row shows of a path (its end) and of a value (its beginning).
inline constexpr size_t kShownPath = 256;
inline constexpr size_t kShownText = 200;

// The name of a path's root: one text; or, if the value is a tuple or a list of as many items as there are
// names, the item's name: hidden['mask'], not outputs[0]['mask'].
struct Root {
  Root(const char* text) : text(text) {}
  Root(std::string text, std::vector<std::string> names = {})
      : text(std::move(text)), names(std::move(names)) {}

  std::string text;
  std::vector<std::string> names;
};

struct Row {
  int depth;
  std::string path;   // from the root, such as outputs[2]['mask']
  std::string label;  // the last step of the path
  TypeCode code;
  std::string text;  // the value, or the name of a type
  int64_t leaf;      // index into Layout::leaves of a tensor or of an alias's target, otherwise -1
  uint64_t children;
};

// `frame` must be the bytes that gave `layout`.
std::vector<Row> outline(const uint8_t* frame, const Layout& layout, const Root& root);

// A leaf's dtype, shape, and strides where the frame has them: float32 [2, 3] with strides [1, 2].
std::string leaf_text(const Layout& layout, const Leaf& leaf);

// The path of one leaf (where it stands first), such as outputs[2]['mask'].
std::string leaf_path(const uint8_t* frame, const Layout& layout, size_t leaf, const Root& root);

// Calls `each` with the path of every leaf in turn: as rows show it or, if `whole`, uncut.
void each_leaf_path(const uint8_t* frame, const Layout& layout, const Root& root, bool whole,
                    const std::function<void(const std::string& path)>& each);

}  // namespace pipecodec::frame
