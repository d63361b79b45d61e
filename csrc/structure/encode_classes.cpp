// Values of classes that the other side has to find by name.
#include "csrc/frame/bytes.h"
#include "csrc/structure/attributes.h"
#include "csrc/structure/dataclass.h"
#include "csrc/structure/known.h"
#include "csrc/structure/names.h"
#include "csrc/structure/registered.h"
#include "csrc/structure/scope.h"

namespace pipecodec::structure {

using frame::TypeCode;

namespace {

constexpr const char* kRegister = "; register it with pipecodec.register";
constexpr const char* kLost =
    "), which would be lost; make it a field, register the type with pipecodec.register, or send a plain "
    "copy, "
    "such as dict(...) of it";

}  // namespace

void refuse_extra_attributes(PyObject* value, PyObject* fields) {
  const Ref attributes = find_attribute(value, "__dict__");
  if (!attributes || !PyDict_Check(attributes.get())) return;
  Py_ssize_t position = 0;
  PyObject *name = nullptr, *unused = nullptr;
  while (PyDict_Next(attributes.get(), &position, &name, &unused) != 0) {
    const int is_field = fields == nullptr ? 0 : PyDict_Contains(fields, name);
    check(is_field);
    if (is_field == 0) {
      throw Unsupported{"is of type " + type_name(value) +
                            " with an attribute that is no field of its class (" + repr(name) + kLost,
                        {},
                        {}};
    }
  }
}

namespace {

// Refuses a value in a __slots__ entry, of a base class too, that is no field.
void refuse_extra_slots(PyObject* value, PyObject* fields) {
  PyObject* const mro = Py_TYPE(value)->tp_mro;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); ++i) {
    PyObject* const names = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i))->tp_dict;
    Py_ssize_t position = 0;
    PyObject *name = nullptr, *member = nullptr;
    while (names != nullptr && PyDict_Next(names, &position, &name, &member) != 0) {
      if (Py_TYPE(member) != &PyMemberDescr_Type || PyDict_Contains(fields, name) != 0) continue;
      if ((reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i))->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0)
        continue;
      if (!find_attribute(value, shown(name).c_str())) continue;
      throw Unsupported{"is of type " + type_name(value) +
                            " with a value in a slot that is no field of its class (" + repr(name) + kLost,
                        {},
                        {}};
    }
  }
}

// True where the functions of torch's pytree for this type take the whole value apart. Those made by
// register_dataclass may leave fields out, and those by register_constant take nothing apart. False where
// such a value may cross by its own type.
bool pytree_keeps(PyObject* value, const Registered& found) {
  const Ref fields = find_attribute(Py_TYPE(value), "__dataclass_fields__");
  const bool dataclass = fields && PyDict_Check(fields.get());
  if (dataclass) refuse_extra_attributes(value, fields.get());
  const Ref module = find_attribute(found.flatten.get(), "__module__");
  if (shown(module.get()) != "torch.utils._pytree") return true;
  const std::string function = shown(find_attribute(found.flatten.get(), "__qualname__").get());
  const bool constant = function.starts_with("register_constant.");
  if (!constant && !function.starts_with("register_dataclass.")) return true;
  if (dataclass || is_a(Py_TYPE(value), known().enum_class) ||
      (is_a(Py_TYPE(value), &PyTuple_Type) && find_attribute(Py_TYPE(value), "_fields"))) {
    return false;
  }
  if (constant) {
    throw Unsupported{"is of type " + type_name(value) +
                          ", which torch's pytree has registered as a constant and does not take apart" +
                          kRegister,
                      {},
                      {}};
  }
  const Ref taken = Ref::steal(PyObject_CallOneArg(found.flatten.get(), value));
  const Ref context = Ref::steal(PySequence_GetItem(taken.get(), 1));
  const Ref kept = Ref::steal(PyDict_New());
  for (Py_ssize_t i = 0; i < 2; ++i) {  // the fields with a value, and those that are None
    const Ref names = Ref::steal(PySequence_GetItem(context.get(), i));
    const Ref items = Ref::steal(PySequence_Tuple(names.get()));
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(items.get()); ++k) {
      check(PyDict_SetItem(kept.get(), PyTuple_GET_ITEM(items.get(), k), Py_None));
    }
  }
  refuse_extra_attributes(value, kept.get());
  refuse_extra_slots(value, kept.get());
  return true;
}

}  // namespace

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

bool Encoder::registered(PyObject* value) {
  Registered found;
  if (!find_registered(Py_TYPE(value), found)) return false;
  if (found.by_pytree && !pytree_keeps(value, found)) return false;
  if (found.name.empty()) restorable_name(Py_TYPE(value));
  const Level level(depth_);
  const Ref taken = Ref::steal(PyObject_CallOneArg(found.flatten.get(), value));
  if (!PyTuple_Check(taken.get()) || PyTuple_GET_SIZE(taken.get()) != 2) {
    throw Unsupported{"is of type " + type_name(value) +
                          ", whose registered flatten must return (children, context), not " +
                          repr(taken.get()),
                      {},
                      {}};
  }
  const Ref children = Ref::steal(PySequence_Tuple(PyTuple_GET_ITEM(taken.get(), 0)));
  const Py_ssize_t size = PyTuple_GET_SIZE(children.get());
  code(TypeCode::Registered);
  structure.text(found.name);
  structure.varint(static_cast<uint64_t>(size) + 1);
  const bool outer = std::exchange(constant_, true);
  child(value, [] { return " context"; }, [&] { node(PyTuple_GET_ITEM(taken.get(), 1)); });
  constant_ = outer;
  for (Py_ssize_t i = 0; i < size; ++i) {
    child(
        value, [&] { return '[' + std::to_string(i) + ']'; },
        [&] { node(PyTuple_GET_ITEM(children.get(), i)); });
  }
  return true;
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
  refuse_extra_slots(value, declared.get());
  if (const char* const why = unrestorable(type)) {
    throw Unsupported{"is of a dataclass, " + type_name(value) + ", that " + why + kRegister, {}, {}};
  }
  const Level level(depth_);
  const std::string type_text = restorable_name(type);
  const Ref fields = Ref::steal(PyObject_CallOneArg(known().dataclass_fields, value));
  std::vector<std::pair<Ref, Ref>> present;
  for (Py_ssize_t i = 0; i < PyTuple_Size(fields.get()); ++i) {
    Ref name = attribute(PyTuple_GetItem(fields.get(), i), "name");
    if (const char* const why = unrestorable_field(type, name.get())) {
      throw Unsupported{"is of a dataclass, " + type_name(value) + ", whose field " + repr(name.get()) + ' ' +
                            why + kRegister,
                        {},
                        {}};
    }
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

}  // namespace pipecodec::structure
