// What a sender remembers of a value: enough to see, without writing a byte, that another one has the same
// structure. Only the types that values are mostly made of; the encoder knows them all.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "csrc/structure/encode.h"
#include "csrc/structure/python.h"
#include "csrc/structure/tensor.h"

namespace pipecodec::structure {

class Pattern {
 public:
  // Of `value`, which `encoder` has just written; null where it holds a type that is not handled here.
  static std::unique_ptr<Pattern> learn(PyObject* value, const Encoder& encoder);

  // True where the encoder would write the same structure and shapes for `value`. Then leaves[i], an array of
  // leaves() items, holds new references, and `values` what the values section would hold; otherwise they
  // hold new references and nulls, and anything. Runs no Python code.
  bool match(PyObject* value, PyObject** leaves);

  size_t leaves() const { return infos_.size(); }
  const std::vector<uint8_t>& values() const { return values_; }

 private:
  enum class Kind : uint8_t { Leaf, Alias, Same, Text, Int, Float, List, Tuple, Dict };
  struct Step {
    Kind kind;
    uint32_t count = 0;  // of children; of an alias the leaf
    Ref object;          // the very object, or the text; of a dict the keys as a tuple
  };
  class Learner;
  class Matcher;

  bool distinct(PyObject* const* leaves);

  std::vector<Step> steps_;  // pre-order
  std::vector<TensorInfo> infos_;
  std::vector<int64_t> shapes_;  // what infos_ refer to
  std::vector<uint8_t> values_;

  // Leaves of the value that is being matched, as a hash table that a new generation empties.
  struct Seen {
    uint32_t generation = 0;
    uint32_t low_bits = 0;  // of the address; two leaves that share them may be one
  };
  std::vector<Seen> seen_;
  uint32_t generation_ = 0;
};

}  // namespace pipecodec::structure
