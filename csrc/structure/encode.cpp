#include "csrc/structure/encode.h"

#include <algorithm>

#include "csrc/frame/header.h"
#include "csrc/frame/strides.h"
#include "csrc/structure/known.h"
#include "csrc/structure/scope.h"
#include "csrc/structure/tensor.h"

namespace pipecodec::structure {
namespace {

using frame::TypeCode;

constexpr size_t kScanned = 8;  // the most leaves for which a linear search is faster than hashing

// The first step at which a container is seen to hold itself.
size_t first_repetition(const std::vector<PyObject*>& containers) {
  std::vector<PyObject*> sorted(containers);
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end()) return 0;
  std::vector<PyObject*> seen;
  for (size_t i = containers.size(); i-- > 0;) {
    if (std::find(seen.begin(), seen.end(), containers[i]) != seen.end()) return i + 1;
    seen.push_back(containers[i]);
  }
  return 0;
}

// The name of the item through which the path goes, if the value is named item by item.
const std::string* name_of(PyObject* value, const Unsupported& error, const frame::Root& root) {
  if (error.steps.empty() || !(PyTuple_CheckExact(value) || PyList_CheckExact(value)) ||
      static_cast<size_t>(PySequence_Fast_GET_SIZE(value)) != root.names.size()) {
    return nullptr;
  }
  size_t index = 0;
  for (const char digit : error.steps.back()) {  // [7]
    if (digit >= '0' && digit <= '9') index = index * 10 + static_cast<size_t>(digit - '0');
  }
  return index < root.names.size() ? &root.names[index] : nullptr;
}

[[noreturn]] void raise(PyObject* value, const Unsupported& error, const frame::Root& root,
                        const std::string& prefix) {
  constexpr size_t kStepsShown = 16;
  const size_t last = first_repetition(error.containers);
  const std::string* const name = name_of(value, error, root);
  std::string path = prefix + (name != nullptr ? *name : root.text);
  for (size_t i = error.steps.size() - (name != nullptr ? 1 : 0); i-- > last;) {
    if (error.steps.size() - i > kStepsShown) {
      path += "…";
      break;
    }
    path += error.steps[i];
  }
  const std::string message =
      last != 0 ? "contains itself; a frame can hold only trees: break the cycle" : error.message;
  PyErr_SetString(known().unsupported_type, (path + " " + message).c_str());
  throw PythonError();
}

}  // namespace

void Encoder::run(PyObject* value, const frame::Root& root, const std::string& prefix, Leaves kind) {
  clear();
  as_bytes_ = kind == Leaves::AsBytes;
  structure.extend(frame::kHeaderBytes);
  try {
    node(value);
  } catch (const Unsupported& error) {
    raise(value, error, root, prefix);
  }
}

void Encoder::clear() {
  structure.clear();
  shapes.clear();
  values.clear();
  for (const Leaf& leaf : leaves) Py_DECREF(leaf.tensor);
  leaves.clear();
  ++generation_;
  depth_ = 0;
  constant_ = false;
}

void Encoder::node(PyObject* value) {
  PyTypeObject* const type = Py_TYPE(value);
  const Known& types = known();
  if (type == types.tensor || type == types.parameter) return leaf(value);
  if (type == &PyTuple_Type) return tuple(value);
  if (type == &PyList_Type) return list(value);
  if (type == &PyDict_Type) return dict(value);
  if (value == Py_None) return code(TypeCode::None);
  if (type == &PyLong_Type) return integer(value);
  if (type == &PyFloat_Type) return real(PyFloat_AS_DOUBLE(value));
  if (type == &PyBool_Type) return code(value == Py_True ? TypeCode::True : TypeCode::False);
  if (type == &PyUnicode_Type) return str(value);
  other(value);
}

void Encoder::leaf(PyObject* tensor) {
  if (constant_) {
    throw Unsupported{
        "is a tensor inside a key, a set, a slice or a type's context, where tensors cannot travel; "
        "move it into a value",
        {},
        {}};
  }
  const int64_t before = known_leaf(tensor);
  if (before >= 0) {
    code(TypeCode::Alias);
    structure.varint(static_cast<uint64_t>(before));
    return;
  }
  TensorInfo info;
  if (const char* const why = describe_tensor(tensor, info)) throw Unsupported{why, {}, {}};
  if (Py_TYPE(tensor) == known().tensor) {
    if (const std::string name = extra_attribute(tensor); !name.empty()) {
      throw Unsupported{"is a tensor with an attribute, ." + name +
                            ", which would not arrive; send that as a value of its own",
                        {},
                        {}};
    }
  }
  uint8_t* const at = structure.extend(3);
  at[0] = static_cast<uint8_t>(TypeCode::Tensor);
  at[1] = static_cast<uint8_t>(info.dtype);
  at[2] = static_cast<uint8_t>((info.requires_grad ? frame::kRequiresGradBit : 0) |
                               (info.nested ? frame::kNestedBit : 0));
  const size_t flags_at = structure.size() - 1;
  structure.varint(info.shape.size());
  uint64_t bytes = frame::kDTypes[static_cast<uint8_t>(info.dtype)].bytes, extent = bytes;
  for (const int64_t dim : info.shape) {
    shapes.varint(static_cast<uint64_t>(dim));
    bytes *= static_cast<uint64_t>(dim);
    if (__builtin_mul_overflow(extent, dim == 0 ? 1 : static_cast<uint64_t>(dim), &extent) ||
        extent > static_cast<uint64_t>(INT64_MAX) - frame::kAlignment) {
      throw Unsupported{"has a size in bytes that does not fit 63 bits, which no frame holds", {}, {}};
    }
  }
  if (info.nested) bytes = 0;
  leaves.push_back({Py_NewRef(tensor), flags_at, info.dtype, info.requires_grad, bytes, bytes, {}});
  if (as_bytes_) strides(tensor, info.shape, leaves.back());
}

void Encoder::strides(PyObject* tensor, std::span<const int64_t> shape, Leaf& leaf) {
  const std::span<const int64_t> own = strides_of(tensor);
  if (own.size() != shape.size()) return;
  const int64_t element = frame::kDTypes[static_cast<uint8_t>(leaf.dtype)].bytes;
  leaf.strides = frame::strides_on_arrival(shape, own, element);
  if (leaf.strides.empty()) return;
  structure.data()[leaf.flags_at] |= frame::kStridesBit;
  for (const int64_t stride : leaf.strides) shapes.varint(static_cast<uint64_t>(stride));
  leaf.bytes = *frame::count_stored(shape, leaf.strides) * static_cast<uint64_t>(element);
}

int64_t Encoder::known_leaf(PyObject* tensor) {
  if (leaves.size() < kScanned) {
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (leaves[i].tensor == tensor) return static_cast<int64_t>(i);
    }
    return -1;
  }
  if (leaves.size() == kScanned || leaves.size() * 2 >= table_.size()) {
    if (leaves.size() * 2 >= table_.size()) {
      table_.assign(std::max<size_t>(64, table_.size() * 2), Entry{});
    }
    for (size_t i = 0; i < leaves.size(); ++i) remember(leaves[i].tensor, static_cast<uint32_t>(i));
  }
  const size_t mask = table_.size() - 1;
  for (size_t i = (reinterpret_cast<uintptr_t>(tensor) >> 4) & mask;; i = (i + 1) & mask) {
    Entry& entry = table_[i];
    if (entry.generation != generation_ || entry.tensor == nullptr) {
      entry = {tensor, generation_, static_cast<uint32_t>(leaves.size())};
      return -1;
    }
    if (entry.tensor == tensor) return entry.leaf;
  }
}

void Encoder::remember(PyObject* tensor, uint32_t leaf) {
  const size_t mask = table_.size() - 1;
  size_t i = (reinterpret_cast<uintptr_t>(tensor) >> 4) & mask;
  while (table_[i].generation == generation_ && table_[i].tensor != nullptr) i = (i + 1) & mask;
  table_[i] = {tensor, generation_, leaf};
}

void Encoder::integer(PyObject* value) {
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0) return big_integer(value);
  if (constant_) {
    code(TypeCode::ConstInt);
    structure.varint(frame::zigzag(number));
  } else {
    code(TypeCode::Int);
    values.fixed<int64_t>(number);
  }
}

void Encoder::real(double value) {
  code(constant_ ? TypeCode::ConstFloat : TypeCode::Float);
  (constant_ ? structure : values).fixed(value);
}

void Encoder::str(PyObject* value) {
  Py_ssize_t size = 0;
  const char* const utf8 = PyUnicode_AsUTF8AndSize(value, &size);
  if (utf8 == nullptr) {
    PyErr_Clear();
    throw Unsupported{
        "is a str with lone surrogates, which UTF-8 cannot hold; send it as bytes, encoded with "
        "errors='surrogatepass'",
        {},
        {}};
  }
  code(TypeCode::Str);
  structure.text({utf8, static_cast<size_t>(size)});
}

void Encoder::list(PyObject* value) {
  const Level level(depth_);
  const Py_ssize_t size = PyList_GET_SIZE(value);
  code(TypeCode::List);
  structure.varint(static_cast<uint64_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    if (PyList_GET_SIZE(value) != size) changed("list");
    const Ref item = Ref::borrow(PyList_GET_ITEM(value, i));
    child(value, [&] { return '[' + std::to_string(i) + ']'; }, [&] { node(item.get()); });
  }
}

void Encoder::tuple(PyObject* value) {
  const Level level(depth_);
  code(TypeCode::Tuple);
  items(value);
}

void Encoder::items(PyObject* tuple) {
  const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
  structure.varint(static_cast<uint64_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    child(tuple, [&] { return '[' + std::to_string(i) + ']'; }, [&] { node(PyTuple_GET_ITEM(tuple, i)); });
  }
}

void Encoder::key(PyObject* value, PyObject* container) {
  const bool outer = std::exchange(constant_, true);
  child(container, [&] { return " key " + repr(value); }, [&] { node(value); });
  constant_ = outer;
}

void Encoder::dict(PyObject* value) {
  const Level level(depth_);
  code(TypeCode::Dict);
  pairs(value);
}

void Encoder::pairs(PyObject* value) {
  const Py_ssize_t size = PyDict_GET_SIZE(value);
  structure.varint(static_cast<uint64_t>(size));
  Py_ssize_t position = 0, seen = 0;
  PyObject *borrowed_key = nullptr, *borrowed_item = nullptr;
  while (PyDict_Next(value, &position, &borrowed_key, &borrowed_item) != 0) {
    const Ref name = Ref::borrow(borrowed_key);
    const Ref item = Ref::borrow(borrowed_item);
    if (PyUnicode_CheckExact(name.get())) {
      child(value, [&] { return " key " + repr(name.get()); }, [&] { str(name.get()); });
    } else {
      key(name.get(), value);
    }
    child(value, [&] { return '[' + repr(name.get()) + ']'; }, [&] { node(item.get()); });
    if (PyDict_GET_SIZE(value) != size) changed("dict");
    ++seen;
  }
  if (seen != size) changed("dict");
}

}  // namespace pipecodec::structure
