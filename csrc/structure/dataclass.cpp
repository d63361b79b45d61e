#include "csrc/structure/dataclass.h"

#include "csrc/structure/attributes.h"
#include "csrc/structure/encode.h"
#include "csrc/structure/known.h"
#include "csrc/structure/names.h"
#include "csrc/structure/restore.h"

namespace pipecodec::structure {

using frame::Node;

namespace {

PyTypeObject* as_type(PyObject* object) { return reinterpret_cast<PyTypeObject*>(object); }

}  // namespace

const char* unrestorable(PyTypeObject* dataclass) {
  if ((dataclass->tp_flags & Py_TPFLAGS_IS_ABSTRACT) != 0) return "is an abstract class";
  PyTypeObject* base = dataclass;
  while ((base->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0) base = base->tp_base;
  return base == &PyBaseObject_Type ? nullptr : "extends a built-in type that has a state of its own";
}

const char* unrestorable_field(PyTypeObject* dataclass, PyObject* name) {
  const char* const utf8 = PyUnicode_AsUTF8(name);
  if (utf8 == nullptr) throw PythonError();
  PyObject* const attribute = class_attribute(dataclass, utf8);
  const bool plain = attribute == nullptr || Py_TYPE(attribute)->tp_descr_set == nullptr ||
                     Py_TYPE(attribute) == &PyMemberDescr_Type;  // of __slots__
  return plain ? nullptr : "is set by code of its class (a property?)";
}

Ref find_dataclass(const Node& node) {
  Ref found = find_class(node.text, node.offset);
  PyObject* const fields = class_attribute(as_type(found.get()), "__dataclass_fields__");
  if (fields == nullptr || !PyDict_Check(fields)) {
    reject(node, '\'' + std::string(node.text) + "' is not a dataclass");
  }
  if (const char* const why = unrestorable(as_type(found.get()))) {
    reject(node, '\'' + std::string(node.text) + "' " + why);
  }
  return found;
}

// Not dataclasses.fields, whose answer could come from code of a metaclass. Class variables are listed too.
Ref field_names(PyObject* dataclass) {
  Ref names = Ref::steal(PySet_New(nullptr));
  PyObject* const fields = class_attribute(as_type(dataclass), "__dataclass_fields__");
  Py_ssize_t position = 0;
  PyObject *name = nullptr, *field = nullptr;
  while (PyDict_Next(fields, &position, &name, &field) != 0) {
    const Ref kind = find_attribute(field, "_field_type");
    if (kind.get() == known().dataclass_field) check(PySet_Add(names.get(), name));
  }
  return names;
}

Ref read_field(frame::NodeReader& nodes, const Node& node, PyObject* dataclass, PyObject* left) {
  const std::string_view text = nodes.next().text;
  Ref name = Ref::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr));
  const int found = PySet_Discard(left, name.get());
  check(found);
  const auto refuse = [&](const std::string& why) {
    reject(node, "field " + repr(name.get()) + " of dataclass '" + std::string(node.text) + "' " + why);
  };
  if (found == 0) refuse("is not known in this process, or comes twice");
  if (const char* const why = unrestorable_field(as_type(dataclass), name.get())) refuse(why);
  return name;
}

// Calls object.__new__, which refuses types that it is not safe for, and not the class's own __new__.
Ref restore_dataclass(PyObject* dataclass) {
  PyObject* const made = PyObject_CallOneArg(known().object_new, dataclass);
  if (made == nullptr && PyErr_ExceptionMatches(PyExc_TypeError) != 0) {
    PyErr_Format(known().frame_error, "dataclass %s cannot be made without calling it",
                 as_type(dataclass)->tp_name);
  }
  return Ref::steal(made);
}

void set_field(PyObject* value, PyObject* name, PyObject* field) {
  // Not through the class's own __setattr__: that of a frozen dataclass refuses.
  check(PyObject_GenericSetAttr(value, name, field));
}

}  // namespace pipecodec::structure
