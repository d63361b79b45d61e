// The arguments of a function that CPython calls with METH_FASTCALL | METH_KEYWORDS.
#pragma once

#include <cstddef>

#include "csrc/structure/python.h"

namespace pipecodec::python {

// Fills `parsed`, of nulls, with the arguments given by position or by name; the first `required` must be
// there. Throws PythonError.
template <size_t N>
void parse(const char* function, const char* const (&names)[N], size_t required, PyObject* const* arguments,
           Py_ssize_t count, PyObject* keywords, PyObject* (&parsed)[N]) {
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  if (static_cast<size_t>(count) > N) {
    PyErr_Format(PyExc_TypeError, "%s() takes at most %zu arguments (%zd given)", function, N, count + named);
    throw structure::PythonError();
  }
  for (Py_ssize_t i = 0; i < count; ++i) parsed[i] = arguments[i];
  for (Py_ssize_t k = 0; k < named; ++k) {
    PyObject* const name = PyTuple_GET_ITEM(keywords, k);
    size_t i = 0;
    while (i < N && PyUnicode_CompareWithASCIIString(name, names[i]) != 0) ++i;
    if (i == N || parsed[i] != nullptr) {
      PyErr_Format(PyExc_TypeError, i == N ? "%s() has no argument '%U'" : "%s() got argument '%U' twice",
                   function, name);
      throw structure::PythonError();
    }
    parsed[i] = arguments[count + k];
  }
  for (size_t i = 0; i < required; ++i) {
    if (parsed[i] != nullptr) continue;
    PyErr_Format(PyExc_TypeError, "%s() needs the argument '%s'", function, names[i]);
    throw structure::PythonError();
  }
}

}  // namespace pipecodec::python
