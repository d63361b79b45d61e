// A Python value becomes structure bytes, value bytes and leaves, in one pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/frame/bytes.h"
#include "csrc/frame/codes.h"
#include "csrc/frame/outline.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

// Thrown for a value that cannot be written. Containers add their steps as the exception passes, which gives
// its path.
struct Unsupported {
  std::string message;
  std::vector<std::string> steps;     // innermost first
  std::vector<PyObject*> containers;  // borrowed, innermost first; the container of each step
};

class Encoder {
 public:
  struct Leaf {
    PyObject* tensor;  // owned by the encoder until clear()
    size_t flags_at;   // offset of its flags byte in `structure`; the route is written after the walk
    frame::DType dtype;
    bool requires_grad;
    uint64_t bytes;                // of its elements as sent: expanded dimensions are there once
    uint64_t room;                 // of all its elements
    std::vector<int64_t> strides;  // on arrival; empty if contiguous or a slot
  };

  Encoder() = default;
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  ~Encoder() { clear(); }

  // Leaves travel as the tensors they are, or as bytes with their strides in the frame.
  enum class Leaves { AsTheyAre, AsBytes };

  // Fills the members below. The structure starts after frame::kHeaderBytes bytes left for the header. Every
  // leaf is written as a slot; if it is to be sent as bytes, also with its strides, and the caller writes its
  // route. Throws PythonError, with messages that start with `prefix` and call the value `root`.
  void run(PyObject* value, const frame::Root& root, const std::string& prefix, Leaves leaves);
  void clear();

  frame::Writer structure;
  frame::Writer shapes;
  frame::Writer values;
  std::vector<Leaf> leaves;

 private:
  void node(PyObject* value);
  void other(PyObject* value);  // everything that is not one of the common exact types
  void leaf(PyObject* tensor);
  void tensor_subclass(PyObject* tensor);
  int64_t known_leaf(PyObject* tensor);
  void integer(PyObject* value);
  void big_integer(PyObject* value);
  void real(double value);
  void complex_number(PyObject* value);
  void str(PyObject* value);
  void bytes(PyObject* value);
  void list(PyObject* value);
  void tuple(PyObject* value);
  void items(PyObject* tuple);
  void dict(PyObject* value);
  void pairs(PyObject* dict);
  void key(PyObject* value, PyObject* container);
  void ordered_dict(PyObject* value);
  void default_dict(PyObject* value);
  void deque(PyObject* value);
  void constants(frame::TypeCode code, PyObject* iterable);
  void members(frame::TypeCode code, PyObject* value);  // start, stop and step of a slice or a range
  void size(PyObject* value);
  void dtype(PyObject* value);
  void device(PyObject* value);
  bool registered(PyObject* value);
  bool enum_member(PyObject* value);
  bool named_tuple(PyObject* value);
  bool dataclass(PyObject* value);
  std::string restorable_name(PyTypeObject* type);

  void code(frame::TypeCode code) { structure.u8(static_cast<uint8_t>(code)); }

  void strides(PyObject* tensor, std::span<const int64_t> shape, Leaf& leaf);

  bool as_bytes_ = false;
  int depth_ = 0;
  bool constant_ =
      false;  // inside a key, a set, a slice...: numbers belong to the structure, tensors are refused

  // The tensors met so far: a hash table, used from a few leaves on, and emptied by a new generation.
  struct Entry {
    PyObject* tensor = nullptr;
    uint32_t generation = 0;
    uint32_t leaf = 0;
  };
  void remember(PyObject* tensor, uint32_t leaf);
  std::vector<Entry> table_;
  uint32_t generation_ = 0;
};

std::string type_name(PyObject* value);  // as users write it: numpy.float64, function
std::string repr(PyObject* value);       // shortened; never fails

// Throws Unsupported where the value has an attribute that would be lost, being none of `fields` (a dict or
// null).
void refuse_extra_attributes(PyObject* value, PyObject* fields);

}  // namespace pipecodec::structure
