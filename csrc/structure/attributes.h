// Small helpers about Python objects, for code that need not be fast.
#pragma once

#include <string>
#include <vector>

#include "csrc/structure/python.h"

namespace pipecodec::structure {

inline bool is_a(PyTypeObject* type, PyTypeObject* base) { return PyType_IsSubtype(type, base) != 0; }
inline bool is_a(PyTypeObject* type, PyObject* base) {
  return is_a(type, reinterpret_cast<PyTypeObject*>(base));
}

// An attribute, or nothing where there is none.
inline Ref find_attribute(PyObject* object, const char* name) {
  PyObject* found = PyObject_GetAttrString(object, name);
  if (found != nullptr) return Ref::steal(found);
  if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
  PyErr_Clear();
  return {};
}

inline Ref attribute(PyObject* object, const char* name) {
  return Ref::steal(PyObject_GetAttrString(object, name));
}

inline Ref find_attribute(PyTypeObject* type, const char* name) {
  return find_attribute(reinterpret_cast<PyObject*>(type), name);
}

// A sequence of non-negative ints.
inline std::vector<size_t> indices_of(PyObject* sequence) {
  const Ref items = Ref::steal(PySequence_Tuple(sequence));
  std::vector<size_t> found;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items.get()); ++i) {
    found.push_back(PyLong_AsSize_t(PyTuple_GET_ITEM(items.get(), i)));
    if (PyErr_Occurred() != nullptr) throw PythonError();
  }
  return found;
}

// Text for a message; never fails.
inline std::string shown(PyObject* text) {
  const char* const utf8 = text != nullptr && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : nullptr;
  PyErr_Clear();
  return utf8 == nullptr ? "?" : utf8;
}

// The name of the built-in type that this one is a subclass of, or null.
inline const char* builtin_base(PyTypeObject* type) {
  PyTypeObject* const bases[] = {&PyLong_Type,  &PyFloat_Type,    &PyComplex_Type, &PyUnicode_Type,
                                 &PyBytes_Type, &PyList_Type,     &PyTuple_Type,   &PyDict_Type,
                                 &PySet_Type,   &PyFrozenSet_Type};
  for (PyTypeObject* base : bases) {
    if (is_a(type, base)) return base->tp_name;
  }
  return nullptr;
}

}  // namespace pipecodec::structure
