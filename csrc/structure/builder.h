// The steps that build the values of one structure, with every constant already made.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/frame/layout.h"
#include "csrc/frame/node.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

class Builder {
 public:
  // Reads a checked frame. Imports nothing and calls no __init__. Throws PythonError for lack of memory, and
  // frame::Error where this process cannot build a type that the frame names.
  Builder(const uint8_t* frame, const frame::Layout& layout);

  // Builds a value. `values` is the values section of a frame of this structure; `leaves` are borrowed.
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
    uint32_t count = 0;  // of children (values, where there are keys); for a leaf its index
    Ref object;          // the constant, the class, the factory, the maximal length; a tuple of a dict's keys
    Ref keys;  // with None as values; for a dataclass a tuple of names; for a registered type its unflatten
  };
  class Compiler;
  class Run;

  std::vector<Step> steps_;  // pre-order
};

}  // namespace pipecodec::structure
