// A frame's structure as rows of text, for people: in messages, in describe(), in reports.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/frame/codes.h"
#include "csrc/frame/layout.h"

namespace pipecodec::frame {

// What a row shows at most of a path (its end) and of a value (its beginning), in bytes.
inline constexpr size_t kShownPath = 256;
inline constexpr size_t kShownText = 200;

struct Row {
  int depth;
  std::string path;   // from the root, such as outputs[2]['mask']
  std::string label;  // the last step of the path
  TypeCode code;
  std::string text;  // the value, or the name of a type
  int64_t leaf;      // index into Layout::leaves of a tensor or of what an alias stands for, otherwise -1
  uint64_t children;
};

// `frame` must be the bytes that gave `layout`.
std::vector<Row> outline(const uint8_t* frame, const Layout& layout, const std::string& root);

// The path of one leaf (where it stands first), such as outputs[2]['mask'].
std::string leaf_path(const uint8_t* frame, const Layout& layout, size_t leaf, const std::string& root);

}  // namespace pipecodec::frame
