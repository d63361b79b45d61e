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

// A value that cannot be written, told where it stands: containers prepend their step as the exception
// passes.
struct Unsupported {
  std::string message;
  std::vector<std::string> steps;     // innermost first
  std::vector<PyObject*> containers;  // borrowed, innermost first; the one each step leads out of
};

class Encoder {
 public:
  struct Leaf {
    PyObject* tensor;  // owned by the encoder until clear()
    size_t flags_at;   // of its flags byte in `structure`; the route is decided after the walk
    frame::DType dtype;
    bool requires_grad;
    uint64_t bytes;                // of its elements as they arrive: expanded dimensions are there once
    uint64_t room;                 // of all of them
    std::vector<int64_t> strides;  // with which it arrives; none where it is contiguous, or a slot
  };

  Encoder() = default;
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  ~Encoder() { clear(); }

  // Whether leaves are passed on as they are, or as bytes, with the strides in the frame.
  enum class Leaves { AsTheyAre, AsBytes };

  // Fills the members below. The structure starts after frame::kHeaderBytes bytes left for the header; every
  // leaf is written as a slot, but with its strides where it is to be sent as bytes: its route is to be
  // written then. Throws PythonError, with messages that call the value `root` behind `prefix`.
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

  // Which tensors were met: a table that is searched from a handful of leaves on, emptied by a new
  // generation.
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

// Throws Unsupported where the value has an attribute that is none of the fields, a dict or null, and would
// be lost.
void refuse_extra_attributes(PyObject* value, PyObject* fields);

}  // namespace pipecodec::structure
