// What a decoder remembers of one structure: how to build its value, with every constant already made.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/frame/layout.h"
#include "csrc/frame/node.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

class Template {
 public:
  // Reads a checked frame. Imports nothing and calls no __init__. Throws PythonError for want of memory,
  // frame::Error where the frame names what this process cannot build.
  Template(const uint8_t* frame, const frame::Layout& layout);

  // The value: `values` is the values section of a frame of this structure, `leaves` are borrowed.
  Ref build(const uint8_t* values, std::span<PyObject* const> leaves) const;

 private:
  enum class Kind : uint8_t {
    Leaf,
    Constant,
    Int,
    Float,
    Complex,
    List,
    Tuple,
    Dict,
    OrderedDict,
    DefaultDict,
    Deque,
    Set,
    NamedTuple,
    Dataclass,
    Registered,
  };
  struct Step {
    Kind kind = Kind::Leaf;
    uint32_t count = 0;  // of children (values, where there are keys); of a leaf its index
    Ref object;  // the constant, the class, the factory, the maximal length; the keys of a dict as a tuple
    Ref keys;    // as a dict of None; of a dataclass a tuple of names; of a registered type its unflatten
  };
  class Compiler;
  class Run;

  std::vector<Step> steps_;  // pre-order
};

}  // namespace pipecodec::structure
