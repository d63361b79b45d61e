#include "csrc/structure/constants.h"

#include <algorithm>

#include "csrc/frame/internal.h"
#include "csrc/structure/collisions.h"
#include "csrc/structure/dataclass.h"
#include "csrc/structure/known.h"
#include "csrc/structure/registered.h"
#include "csrc/structure/restore.h"

namespace pipecodec::structure {
namespace {

using frame::Node;
using frame::TypeCode;

Ref utf8(std::string_view text) {
  return Ref::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr));
}

// Python mixes a secret into the hashes of these, so nobody can choose them.
bool has_secret_hash(const Ref& key) {
  return PyUnicode_CheckExact(key.get()) || PyBytes_CheckExact(key.get());
}

}  // namespace

Ref ConstantReader::tuple(const Node& node) {
  Ref made = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(node.children)));
  for (uint64_t i = 0; i < node.children; ++i) {
    PyTuple_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i), read().release());
  }
  return made;
}

Ref ConstantReader::list(uint64_t count) {
  Ref made = Ref::steal(PyList_New(static_cast<Py_ssize_t>(count)));
  for (uint64_t i = 0; i < count; ++i) {
    PyList_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i), read().release());
  }
  return made;
}

Ref ConstantReader::fill(const Node& node, Ref mapping) {
  Keys keys;
  std::vector<Ref> values;
  for (uint64_t i = 0; i < node.children / 2; ++i) {
    read_key(keys);
    values.push_back(read());
  }
  const Ref distinct = as_dict(node, keys);
  for (size_t i = 0; i < values.size(); ++i) {
    accept(node, PyObject_SetItem(mapping.get(), keys.objects[i].get(), values[i].get()));
  }
  return mapping;
}

Ref ConstantReader::set(const Node& node) {
  Keys keys;
  for (uint64_t i = 0; i < node.children; ++i) read_key(keys);
  const Ref distinct = as_dict(node, keys);
  cost_ += check_collisions(node, keys, true);
  return Ref::steal(node.code == TypeCode::Set ? PySet_New(distinct.get()) : PyFrozenSet_New(distinct.get()));
}

Ref ConstantReader::dataclass(const Node& node) {
  const Ref type = find_dataclass(node);
  const Ref left = field_names(type.get());
  Ref made = restore_dataclass(type.get());
  for (uint64_t i = 0; i < node.children / 2; ++i) {
    const Ref name = read_field(nodes_, node, type.get(), left.get());
    const Ref value = read();
    set_field(made.get(), name.get(), value.get());
  }
  return made;
}

// Counts before anything is inserted: keys can be chosen such that building a dict of them takes the square
// of their number, and nested sets more.
uint64_t ConstantReader::check_collisions(const Node& node, const Keys& keys, bool as_set) {
  if (std::all_of(keys.objects.begin(), keys.objects.end(), has_secret_hash)) return keys.costs.size();
  constexpr uint64_t kStepsForEachByte = 32, kFree = 10000;
  const uint64_t allowed = kFree + kStepsForEachByte * nodes_.consumed();
  std::vector<HashedKey> hashed;
  hashed.reserve(keys.objects.size());
  for (size_t i = 0; i < keys.objects.size(); ++i) {
    const Py_hash_t hash = PyObject_Hash(keys.objects[i].get());
    if (hash == -1) accept(node, -1);
    hashed.push_back({hash, keys.costs[i]});
  }
  const uint64_t left = allowed - std::min(allowed, steps_);
  const uint64_t steps = as_set ? set_steps(hashed, left) : dict_steps(hashed, left);
  if (steps > left) {
    throw frame::Error(frame::Reason::Rejected, node.offset,
                       "the keys collide: building their dict or set takes too many hash probes");
  }
  steps_ += steps;
  return steps;
}

Ref ConstantReader::as_dict(const Node& node, const Keys& keys) {
  check_collisions(node, keys, false);
  Ref made = Ref::steal(PyDict_New());
  for (const Ref& key : keys.objects) accept(node, PyDict_SetItem(made.get(), key.get(), Py_None));
  if (static_cast<size_t>(PyDict_GET_SIZE(made.get())) != keys.objects.size()) {
    throw frame::Error(frame::Reason::Rejected, node.offset, "a key or an item occurs twice");
  }
  return made;
}

Ref ConstantReader::read() {
  ++cost_;
  const Node& node = nodes_.next();
  return node.code == TypeCode::Str ? utf8(node.text) : finish(node);
}

void ConstantReader::read_key(Keys& keys) {
  const uint64_t before = cost_;
  keys.objects.push_back(read());
  keys.costs.push_back(cost_ - before);
}

Ref ConstantReader::finish(Node node) {
  switch (node.code) {
    case TypeCode::None:
      return Ref::borrow(Py_None);
    case TypeCode::False:
      return Ref::borrow(Py_False);
    case TypeCode::True:
      return Ref::borrow(Py_True);
    case TypeCode::ConstInt:
      return Ref::steal(PyLong_FromLongLong(frame::unzigzag(node.number)));
    case TypeCode::BigInt:
      cost_ += node.text.size() / 8;
      return restore_big_int(node);
    case TypeCode::ConstFloat:
      return Ref::steal(PyFloat_FromDouble(node.real));
    case TypeCode::ConstComplex:
      return Ref::steal(PyComplex_FromDoubles(node.real, node.imaginary));
    case TypeCode::Str:
      return utf8(node.text);
    case TypeCode::Bytes:
      return Ref::steal(
          PyBytes_FromStringAndSize(node.text.data(), static_cast<Py_ssize_t>(node.text.size())));
    case TypeCode::List:
      return list(node.children);
    case TypeCode::Tuple:
      return tuple(node);
    case TypeCode::Dict:
      return fill(node, Ref::steal(PyDict_New()));
    case TypeCode::OrderedDict:
      return fill(node, Ref::steal(PyObject_CallNoArgs(reinterpret_cast<PyObject*>(known().ordered_dict))));
    case TypeCode::DefaultDict: {
      const Ref factory = restore_factory(node);
      return fill(node, restore_default_dict(factory.get()));
    }
    case TypeCode::Deque: {
      const Ref members = list(node.children);
      const Ref limit = restore_limit(node);
      return restore_deque(members.get(), limit.get());
    }
    case TypeCode::Set:
    case TypeCode::FrozenSet:
      return set(node);
    case TypeCode::NamedTuple: {
      const Ref type = find_named_tuple(node);
      const Ref members = tuple(node);
      return restore_named_tuple(type.get(), members.get());
    }
    case TypeCode::Dataclass:
      return dataclass(node);
    case TypeCode::Enum:
      return restore_enum(node);
    case TypeCode::Size: {
      const Ref dims = tuple(node);
      return accept(node, PyObject_CallOneArg(reinterpret_cast<PyObject*>(known().size), dims.get()));
    }
    case TypeCode::DType:
      return restore_dtype(node);
    case TypeCode::Device: {
      const Ref text = utf8(node.text);
      return accept(node, PyObject_CallOneArg(reinterpret_cast<PyObject*>(known().device), text.get()));
    }
    case TypeCode::Slice: {
      const Ref parts = tuple(node);
      return Ref::steal(PySlice_New(PyTuple_GET_ITEM(parts.get(), 0), PyTuple_GET_ITEM(parts.get(), 1),
                                    PyTuple_GET_ITEM(parts.get(), 2)));
    }
    case TypeCode::Range: {
      const Ref parts = tuple(node);
      return accept(node, PyObject_Call(reinterpret_cast<PyObject*>(&PyRange_Type), parts.get(), nullptr));
    }
    case TypeCode::Registered: {
      const Registered found = find_registered(node.text, node.offset);
      const Ref context = read();
      const Ref children = list(node.children - 1);
      return restore_registered(found.type.get(), found.unflatten.get(), children.get(), context.get());
    }
    case TypeCode::Tensor:
    case TypeCode::Scalar:
    case TypeCode::Alias:
    case TypeCode::Int:
    case TypeCode::Float:
    case TypeCode::Complex:
      break;
  }
  PIPECODEC_BUG("no constant, where frame::parse_structure lets through nothing else");
}

}  // namespace pipecodec::structure
