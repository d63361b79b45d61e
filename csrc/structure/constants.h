// Reads the parts of a structure that are constants: keys, sets, slices, sizes.
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

  // Reads the next constant. Throws as Builder does.
  Ref read();
  void read_key(Keys& keys);

  // Reads the rest of a constant whose node was read last. Takes a copy of the node, since reading on
  // overwrites the reader's.
  Ref finish(frame::Node node);

  // Makes a dict of these keys, in their order, with None as every value. Throws where they are not hashable,
  // not distinct, or made to collide.
  Ref as_dict(const frame::Node& node, const Keys& keys);

 private:
  Ref tuple(const frame::Node& node);
  Ref list(uint64_t count);
  Ref fill(const frame::Node& node, Ref mapping);
  Ref set(const frame::Node& node);
  Ref dataclass(const frame::Node& node);
  uint64_t check_collisions(const frame::Node& node, const Keys& keys, bool as_set);

  frame::NodeReader& nodes_;
  uint64_t cost_ = 0;   // steps of comparing all constants read with equal ones
  uint64_t steps_ = 0;  // of building their dicts and sets, as far as counted
};

}  // namespace pipecodec::structure
