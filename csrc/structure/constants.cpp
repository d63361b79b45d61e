#include "csrc/structure/constants.h"

#include <algorithm>
#include <vector>

#include "csrc/structure/known.h"
#include "csrc/structure/registered.h"
#include "csrc/structure/restore.h"

namespace pipecodec::structure {
namespace {

using frame::Node;
using frame::NodeReader;
using frame::TypeCode;

Ref utf8(std::string_view text) {
  return Ref::take(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr));
}

Ref tuple(NodeReader& nodes, const Node& node) {
  Ref made = Ref::take(PyTuple_New(static_cast<Py_ssize_t>(node.children)));
  for (uint64_t i = 0; i < node.children; ++i) {
    PyTuple_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i), read_constant(nodes).release());
  }
  return made;
}

Ref list(NodeReader& nodes, const Node& node) {
  const Ref members = tuple(nodes, node);
  return Ref::take(PySequence_List(members.get()));
}

void fill(NodeReader& nodes, const Node& node, PyObject* mapping) {
  std::vector<Ref> keys, values;
  for (uint64_t i = 0; i < node.children / 2; ++i) {
    keys.push_back(read_constant(nodes));
    values.push_back(read_constant(nodes));
  }
  const Ref distinct = as_keys(node, keys);
  Py_ssize_t position = 0;
  PyObject *key = nullptr, *unused = nullptr;
  for (size_t i = 0; PyDict_Next(distinct.get(), &position, &key, &unused) != 0; ++i) {
    accept(node, PyObject_SetItem(mapping, key, values[i].get()));
  }
}

Ref set(NodeReader& nodes, const Node& node) {
  std::vector<Ref> members;
  for (uint64_t i = 0; i < node.children; ++i) members.push_back(read_constant(nodes));
  const Ref distinct = as_keys(node, members);
  return Ref::take(node.code == TypeCode::Set ? PySet_New(distinct.get()) : PyFrozenSet_New(distinct.get()));
}

// Keys made to have one hash would make every look-up walk past all of them, and building a dict of them
// quadratic. So many of one hash do not come by chance: it is looked for before the first is inserted.
void check_hashes(const Node& node, const std::vector<Ref>& keys) {
  constexpr size_t kTrusted = 128;
  if (keys.size() <= kTrusted) return;
  std::vector<Py_hash_t> hashes;
  hashes.reserve(keys.size());
  for (const Ref& key : keys) {
    const Py_hash_t hash = PyObject_Hash(key.get());
    if (hash == -1) accept(node, -1);
    hashes.push_back(hash);
  }
  std::sort(hashes.begin(), hashes.end());
  for (size_t i = kTrusted; i < hashes.size(); ++i) {
    if (hashes[i] == hashes[i - kTrusted]) {
      throw frame::Error(frame::Reason::Rejected, node.offset,
                         "the keys are made to collide: too many have one hash");
    }
  }
}

}  // namespace

Ref as_keys(const Node& node, const std::vector<Ref>& keys) {
  check_hashes(node, keys);
  Ref made = Ref::take(PyDict_New());
  for (const Ref& key : keys) accept(node, PyDict_SetItem(made.get(), key.get(), Py_None));
  if (static_cast<size_t>(PyDict_GET_SIZE(made.get())) != keys.size()) {
    throw frame::Error(frame::Reason::Rejected, node.offset, "a key or an item occurs twice");
  }
  return made;
}

Ref read_constant(NodeReader& nodes) {
  const Node& node = nodes.next();
  return node.code == TypeCode::Str ? utf8(node.text) : finish_constant(nodes, node);
}

Ref finish_constant(NodeReader& nodes, Node node) {
  switch (node.code) {
    case TypeCode::None:
      return Ref::share(Py_None);
    case TypeCode::False:
      return Ref::share(Py_False);
    case TypeCode::True:
      return Ref::share(Py_True);
    case TypeCode::ConstInt:
      return Ref::take(PyLong_FromLongLong(frame::unzigzag(node.number)));
    case TypeCode::BigInt:
      return restore_big_int(node);
    case TypeCode::ConstFloat:
      return Ref::take(PyFloat_FromDouble(node.real));
    case TypeCode::ConstComplex:
      return Ref::take(PyComplex_FromDoubles(node.real, node.imaginary));
    case TypeCode::Str:
      return utf8(node.text);
    case TypeCode::Bytes:
      return Ref::take(
          PyBytes_FromStringAndSize(node.text.data(), static_cast<Py_ssize_t>(node.text.size())));
    case TypeCode::List:
      return list(nodes, node);
    case TypeCode::Tuple:
      return tuple(nodes, node);
    case TypeCode::Dict: {
      Ref made = Ref::take(PyDict_New());
      fill(nodes, node, made.get());
      return made;
    }
    case TypeCode::OrderedDict: {
      Ref made = Ref::take(PyObject_CallNoArgs(reinterpret_cast<PyObject*>(known().ordered_dict)));
      fill(nodes, node, made.get());
      return made;
    }
    case TypeCode::DefaultDict: {
      const Ref factory = restore_factory(node);
      Ref made = restore_default_dict(factory.get());
      fill(nodes, node, made.get());
      return made;
    }
    case TypeCode::Deque: {
      const Ref members = list(nodes, node);
      const Ref limit = restore_limit(node);
      return restore_deque(members.get(), limit.get());
    }
    case TypeCode::Set:
    case TypeCode::FrozenSet:
      return set(nodes, node);
    case TypeCode::NamedTuple: {
      const Ref type = find_named_tuple(node);
      const Ref members = tuple(nodes, node);
      return restore_named_tuple(type.get(), members.get());
    }
    case TypeCode::Dataclass: {
      const Ref type = find_dataclass(node);
      Ref made = restore_dataclass(type.get());
      for (uint64_t i = 0; i < node.children / 2; ++i) {
        const Ref name = read_field(nodes, node, type.get());
        const Ref value = read_constant(nodes);
        set_field(made.get(), name.get(), value.get());
      }
      return made;
    }
    case TypeCode::Enum:
      return restore_enum(node);
    case TypeCode::Size: {
      const Ref dims = tuple(nodes, node);
      return accept(node, PyObject_CallOneArg(reinterpret_cast<PyObject*>(known().size), dims.get()));
    }
    case TypeCode::DType:
      return restore_dtype(node);
    case TypeCode::Device: {
      const Ref text = utf8(node.text);
      return accept(node, PyObject_CallOneArg(reinterpret_cast<PyObject*>(known().device), text.get()));
    }
    case TypeCode::Slice: {
      const Ref parts = tuple(nodes, node);
      return Ref::take(PySlice_New(PyTuple_GET_ITEM(parts.get(), 0), PyTuple_GET_ITEM(parts.get(), 1),
                                   PyTuple_GET_ITEM(parts.get(), 2)));
    }
    case TypeCode::Range: {
      const Ref parts = tuple(nodes, node);
      return accept(node, PyObject_Call(reinterpret_cast<PyObject*>(&PyRange_Type), parts.get(), nullptr));
    }
    case TypeCode::Registered: {
      const Registered found = find_registered(node.text, node.offset);
      const Ref context = read_constant(nodes);
      Ref children = Ref::take(PyList_New(static_cast<Py_ssize_t>(node.children - 1)));
      for (uint64_t i = 0; i + 1 < node.children; ++i) {
        PyList_SET_ITEM(children.get(), static_cast<Py_ssize_t>(i), read_constant(nodes).release());
      }
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
  throw frame::Error(frame::Reason::MisplacedCode, node.offset, "not a constant");
}

}  // namespace pipecodec::structure
