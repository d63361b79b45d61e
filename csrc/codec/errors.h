// From C++ exceptions to Python errors: the one place where they meet.
#pragma once

#include <string>

#include "csrc/structure/known.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

// Where a boundary's options are given; the end of a remedy that names one.
inline constexpr char kOnAllRanks[] =
    " on all ranks, in pipecodec.deepspeed.initialize, pipecodec.pipelining.build_stage or pipecodec.Codec";

[[noreturn]] inline void raise(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  throw structure::PythonError();
}

// Sets the Python error of the exception that is being handled. `where` goes in front of the text of a
// frame's.
void set_python_error(const std::string& where) noexcept;

// Runs `body`, which gives a Ref, for a caller in C: no exception leaves it.
template <class Body>
PyObject* guarded(const std::string& where, Body body) noexcept {
  try {
    return body().release();
  } catch (...) {
    set_python_error(where);
  }
  return nullptr;
}

}  // namespace pipecodec::codec
