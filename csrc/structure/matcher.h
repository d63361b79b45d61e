// Recognises, without writing a byte, that a value has the structure of a remembered one. Handles only the
// types that values are mostly made of; the encoder handles all.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "csrc/structure/encode.h"
#include "csrc/structure/python.h"
#include "csrc/structure/tensor.h"

namespace pipecodec::structure {

class Matcher {
 public:
  // Learns the structure of `value`, which `encoder` has just written; null if it holds a type not handled
  // here.
  static std::unique_ptr<Matcher> learn(PyObject* value, const Encoder& encoder);

  // True where the encoder would write the same structure and shapes for `value`. Then `leaves`, an array of
  // leaves() items, holds new references, and values() the bytes of the values section. Otherwise `leaves`
  // holds new references and nulls, and values() is undefined. Runs no Python code.
  bool match(PyObject* value, PyObject** leaves);

  size_t leaves() const { return infos_.size(); }
  const std::vector<uint8_t>& values() const { return values_; }

 private:
  enum class Kind : uint8_t { Leaf, Alias, Same, Text, Int, Float, List, Tuple, Dict };
  struct Step {
    Kind kind;
    uint32_t count = 0;  // of children; for an alias its leaf
    Ref object;          // the same object, or the text; for a dict the tuple of keys
  };
  class Learner;
  class Match;

  bool distinct(PyObject* const* leaves);

  std::vector<Step> steps_;  // pre-order
  std::vector<TensorInfo> infos_;
  std::vector<int64_t> shapes_;  // infos_ refer to it
  std::vector<uint8_t> values_;

  // Leaves of the value that is being matched, as a hash table that a new generation empties.
  struct Seen {
    uint32_t generation = 0;
    uint32_t low_bits = 0;  // of the address; leaves that share them may be the same
  };
  std::vector<Seen> seen_;
  uint32_t generation_ = 0;
};

}  // namespace pipecodec::structure
