// Reading the parts of a structure that are constants: keys, sets, slices, sizes, contexts.
#pragma once

#include "csrc/frame/node.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

// The constant whose node comes next. Throws as Template does.
Ref read_constant(frame::NodeReader& nodes);

// The rest of one whose node has been read.
Ref finish_constant(frame::NodeReader& nodes,
                    frame::Node node);  // a copy: reading on overwrites the reader's

// n constants as the keys of a new dict (all values None), in their order. They must be hashable and
// distinct.
Ref as_keys(const frame::Node& node, const std::vector<Ref>& keys);

}  // namespace pipecodec::structure
