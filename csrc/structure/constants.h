// Reading the parts of a structure that are constants: keys, sets, slices, sizes.
#pragma once

#include <vector>

#include "csrc/frame/node.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

// The keys of one dictionary or set, and the steps that comparing each with an equal one takes.
struct Keys {
  std::vector<Ref> objects;
  std::vector<uint64_t> costs;
};

class ConstantReader {
 public:
  explicit ConstantReader(frame::NodeReader& nodes) : nodes_(nodes) {}

  // The constant whose node comes next. Throws as Template does.
  Ref read();
  void read_key(Keys& keys);

  // The rest of one whose node has been read; a copy of it, since reading on overwrites the reader's.
  Ref finish(frame::Node node);

  // A new dict of these keys, all values None, in their order. They must be hashable, distinct, and not made
  // to collide.
  Ref as_dict(const frame::Node& node, const Keys& keys);

 private:
  Ref tuple(const frame::Node& node);
  Ref list(uint64_t count);
  Ref fill(const frame::Node& node, Ref mapping);
  Ref set(const frame::Node& node);
  Ref dataclass(const frame::Node& node);
  uint64_t check_collisions(const frame::Node& node, const Keys& keys, bool as_set);

  frame::NodeReader& nodes_;
  uint64_t cost_ = 0;   // of comparing all that was read with what is equal to it
  uint64_t steps_ = 0;  // that building its dicts and sets takes, as far as they were counted
};

}  // namespace pipecodec::structure
