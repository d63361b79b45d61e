// The less common types: what is neither a tensor nor one of the exact types that Encoder::node tests for
// first.
#include "csrc/frame/bytes.h"
#include "csrc/structure/known.h"
#include "csrc/structure/names.h"
#include "csrc/structure/scope.h"

namespace pipecodec::structure {

using frame::TypeCode;

namespace {

constexpr const char* kAdvice = "send tensors and plain values, or register the type with pipecodec.register";

bool is_a(PyTypeObject* type, PyTypeObject* base) { return PyType_IsSubtype(type, base) != 0; }
bool is_a(PyTypeObject* type, PyObject* base) { return is_a(type, reinterpret_cast<PyTypeObject*>(base)); }

// An attribute, or nothing where there is none.
Ref find_attribute(PyObject* object, const char* name) {
  PyObject* found = PyObject_GetAttrString(object, name);
  if (found != nullptr) return Ref::take(found);
  if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
  PyErr_Clear();
  return {};
}

Ref attribute(PyObject* object, const char* name) { return Ref::take(PyObject_GetAttrString(object, name)); }

Ref find_attribute(PyTypeObject* type, const char* name) {
  return find_attribute(reinterpret_cast<PyObject*>(type), name);
}

// Text for a message; never fails.
std::string shown(PyObject* text) {
  const char* const utf8 = text != nullptr && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : nullptr;
  PyErr_Clear();
  return utf8 == nullptr ? "?" : utf8;
}

const char* builtin_base(PyTypeObject* type) {
  PyTypeObject* const bases[] = {&PyLong_Type,  &PyFloat_Type,    &PyComplex_Type, &PyUnicode_Type,
                                 &PyBytes_Type, &PyList_Type,     &PyTuple_Type,   &PyDict_Type,
                                 &PySet_Type,   &PyFrozenSet_Type};
  for (PyTypeObject* base : bases) {
    if (is_a(type, base)) return base->tp_name;
  }
  return nullptr;
}

// Attributes that no field names would be lost.
void refuse_extra_attributes(PyObject* value, PyObject* fields) {
  const Ref attributes = find_attribute(value, "__dict__");
  if (!attributes || !PyDict_Check(attributes.get())) return;
  Py_ssize_t position = 0;
  PyObject *name = nullptr, *unused = nullptr;
  while (PyDict_Next(attributes.get(), &position, &name, &unused) != 0) {
    const int is_field = fields == nullptr ? 0 : PyDict_Contains(fields, name);
    check(is_field);
    if (is_field == 0) {
      throw Unsupported{
          "is a " + type_name(value) + " with an attribute that is no field of its class (" + repr(name) +
              "), which would be lost; make it a field, or register the type with pipecodec.register",
          {},
          {}};
    }
  }
}

}  // namespace

void Encoder::other(PyObject* value) {
  PyTypeObject* const type = Py_TYPE(value);
  const Known& types = known();
  if (is_a(type, types.tensor)) return leaf(value);
  if (type == &PyBytes_Type) return bytes(value);
  if (type == &PyComplex_Type) return complex_number(value);
  if (type == types.size) return size(value);
  if (type == types.dtype) return dtype(value);
  if (type == types.device) return device(value);
  if (type == types.ordered_dict) return ordered_dict(value);
  if (type == types.default_dict) return default_dict(value);
  if (type == types.deque) return deque(value);
  if (type == &PySet_Type) return constants(TypeCode::Set, value);
  if (type == &PyFrozenSet_Type) return constants(TypeCode::FrozenSet, value);
  if (type == &PySlice_Type) return members(TypeCode::Slice, value);
  if (type == &PyRange_Type) return members(TypeCode::Range, value);
  if (enum_member(value) || named_tuple(value) || dataclass(value)) return;
  if (const char* base = builtin_base(type)) {
    throw Unsupported{"is a " + type_name(value) + ", a subclass of " + base +
                          " that would not come back as itself; " + "convert it with " + base +
                          "(...), or register the type with pipecodec.register",
                      {},
                      {}};
  }
  throw Unsupported{"is a " + type_name(value) + ", which cannot cross a stage boundary; " + kAdvice, {}, {}};
}

void Encoder::bytes(PyObject* value) {
  code(TypeCode::Bytes);
  structure.text({PyBytes_AS_STRING(value), static_cast<size_t>(PyBytes_GET_SIZE(value))});
}

void Encoder::complex_number(PyObject* value) {
  const Py_complex number = PyComplex_AsCComplex(value);
  code(constant_ ? TypeCode::ConstComplex : TypeCode::Complex);
  (constant_ ? structure : values).fixed(number.real);
  (constant_ ? structure : values).fixed(number.imag);
}

void Encoder::big_integer(PyObject* value) {
  const Ref bits = Ref::take(PyObject_CallMethod(value, "bit_length", nullptr));
  const size_t length = PyLong_AsSize_t(bits.get()) / 8 + 1;
  const Ref to_bytes = attribute(value, "to_bytes");
  const Ref arguments = Ref::take(Py_BuildValue("(ns)", static_cast<Py_ssize_t>(length), "little"));
  const Ref keywords = Ref::take(Py_BuildValue("{sO}", "signed", Py_True));
  const Ref text = Ref::take(PyObject_Call(to_bytes.get(), arguments.get(), keywords.get()));
  std::string_view written(PyBytes_AS_STRING(text.get()), length);
  // -2**71 has 72 bits beside its sign, and fits 9 bytes all the same.
  if (written[length - 1] == '\xff' && (written[length - 2] & 0x80) != 0) written.remove_suffix(1);
  code(TypeCode::BigInt);
  structure.text(written);
}

void Encoder::ordered_dict(PyObject* value) {
  const Level level(depth_);
  const Ref view = Ref::take(PyObject_CallMethod(value, "items", nullptr));
  const Ref pairs = Ref::take(PySequence_List(view.get()));
  const Py_ssize_t size = PyList_GET_SIZE(pairs.get());
  code(TypeCode::OrderedDict);
  structure.varint(static_cast<uint64_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* const pair = PyList_GET_ITEM(pairs.get(), i);
    key(PyTuple_GET_ITEM(pair, 0), value);
    child(
        value, [&] { return '[' + repr(PyTuple_GET_ITEM(pair, 0)) + ']'; },
        [&] { node(PyTuple_GET_ITEM(pair, 1)); });
  }
}

void Encoder::default_dict(PyObject* value) {
  const Level level(depth_);
  const Ref factory = attribute(value, "default_factory");
  std::string name;
  if (factory.get() != Py_None) {
    if (PyType_Check(factory.get())) name = class_name(reinterpret_cast<PyTypeObject*>(factory.get()));
    if (name.empty()) {
      throw Unsupported{
          "is a defaultdict whose factory " + repr(factory.get()) +
              " is not a class that can be found by name; use a class such as list, or send dict(...)",
          {},
          {}};
    }
  }
  code(TypeCode::DefaultDict);
  structure.text(name);
  pairs(value);
}

void Encoder::deque(PyObject* value) {
  const Level level(depth_);
  const Ref limit = attribute(value, "maxlen");
  const Ref members = Ref::take(PySequence_Tuple(value));
  code(TypeCode::Deque);
  structure.varint(limit.get() == Py_None ? 0 : PyLong_AsSize_t(limit.get()) + 1);
  items(members.get());
}

void Encoder::constants(TypeCode type, PyObject* iterable) {
  const Level level(depth_);
  const bool outer = std::exchange(constant_, true);
  const Ref members = Ref::take(PySequence_Tuple(iterable));
  code(type);
  items(members.get());
  constant_ = outer;
}

void Encoder::members(TypeCode type, PyObject* value) {
  const Level level(depth_);
  const bool outer = std::exchange(constant_, true);
  code(type);
  for (const char* name : {"start", "stop", "step"}) {
    const Ref member = attribute(value, name);
    child(value, [&] { return std::string(".") + name; }, [&] { node(member.get()); });
  }
  constant_ = outer;
}

void Encoder::size(PyObject* value) { constants(TypeCode::Size, value); }

void Encoder::dtype(PyObject* value) {
  PyObject* const number = PyDict_GetItemWithError(known().dtype_codes, value);
  if (number == nullptr) throw Unsupported{"is " + repr(value) + ", a dtype frames have no code for", {}, {}};
  code(TypeCode::DType);
  structure.u8(static_cast<uint8_t>(PyLong_AsLong(number)));
}

void Encoder::device(PyObject* value) {
  const Ref text = Ref::take(PyObject_Str(value));
  Py_ssize_t size = 0;
  const char* const utf8 = PyUnicode_AsUTF8AndSize(text.get(), &size);
  if (utf8 == nullptr) throw PythonError();
  code(TypeCode::Device);
  structure.text({utf8, static_cast<size_t>(size)});
}

std::string Encoder::restorable_name(PyTypeObject* type) {
  std::string name = class_name(type);
  if (name.empty()) {
    throw Unsupported{
        "is of type " + std::string(type->tp_name) +
            ", whose name does not lead back to it from its module; " +
            "define the class at the top level of a module, or register it with pipecodec.register",
        {},
        {}};
  }
  return name;
}

bool Encoder::enum_member(PyObject* value) {
  PyTypeObject* const type = Py_TYPE(value);
  if (!is_a(type, known().enum_class)) return false;
  const Ref name = find_attribute(value, "_name_");
  const Ref all = find_attribute(type, "_member_map_");
  if (!name || !all || !PyDict_Check(all.get()) || PyDict_GetItemWithError(all.get(), name.get()) != value) {
    throw Unsupported{
        "is " + repr(value) + ", which is no single named member of its enum; send its value", {}, {}};
  }
  const std::string type_text = restorable_name(type);
  Py_ssize_t size = 0;
  const char* const utf8 = PyUnicode_AsUTF8AndSize(name.get(), &size);
  if (utf8 == nullptr) throw PythonError();
  code(TypeCode::Enum);
  structure.text(type_text);
  structure.text({utf8, static_cast<size_t>(size)});
  return true;
}

bool Encoder::named_tuple(PyObject* value) {
  PyTypeObject* const type = Py_TYPE(value);
  if (!is_a(type, &PyTuple_Type)) return false;
  const Ref fields = find_attribute(type, "_fields");
  if (!fields || !PyTuple_Check(fields.get()) || PyTuple_GET_SIZE(fields.get()) != PyTuple_GET_SIZE(value))
    return false;
  refuse_extra_attributes(value, nullptr);
  const Level level(depth_);
  const std::string name = restorable_name(type);
  const Py_ssize_t size = PyTuple_GET_SIZE(value);
  code(TypeCode::NamedTuple);
  structure.text(name);
  structure.varint(static_cast<uint64_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    child(
        value, [&] { return '.' + shown(PyTuple_GET_ITEM(fields.get(), i)); },
        [&] { node(PyTuple_GET_ITEM(value, i)); });
  }
  return true;
}

bool Encoder::dataclass(PyObject* value) {
  PyTypeObject* const type = Py_TYPE(value);
  if (builtin_base(type) != nullptr) return false;
  const Ref declared = find_attribute(type, "__dataclass_fields__");
  if (!declared || !PyDict_Check(declared.get())) return false;
  refuse_extra_attributes(value, declared.get());
  const Level level(depth_);
  const std::string type_text = restorable_name(type);
  const Ref fields = Ref::take(PyObject_CallOneArg(known().dataclass_fields, value));
  std::vector<std::pair<Ref, Ref>> present;
  for (Py_ssize_t i = 0; i < PyTuple_Size(fields.get()); ++i) {
    Ref name = attribute(PyTuple_GetItem(fields.get(), i), "name");
    Ref field = find_attribute(value, shown(name.get()).c_str());
    if (field) present.emplace_back(std::move(name), std::move(field));
  }
  code(TypeCode::Dataclass);
  structure.text(type_text);
  structure.varint(present.size());
  for (const auto& [name, field] : present) {
    str(name.get());
    child(value, [&] { return '.' + shown(name.get()); }, [&] { node(field.get()); });
  }
  return true;
}

std::string type_name(PyObject* value) {
  const Ref module = find_attribute(Py_TYPE(value), "__module__");
  const std::string name = shown(find_attribute(Py_TYPE(value), "__qualname__").get());
  const std::string prefix = shown(module.get());
  return prefix == "builtins" ? name : prefix + '.' + name;
}

std::string repr(PyObject* value) {
  constexpr size_t kShown = 60;
  PyObject* const made = PyObject_Repr(value);
  std::string text = made == nullptr ? "<" + std::string(Py_TYPE(value)->tp_name) + ">" : shown(made);
  Py_XDECREF(made);
  PyErr_Clear();
  if (text.size() <= kShown) return text;
  size_t end = kShown;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

}  // namespace pipecodec::structure
