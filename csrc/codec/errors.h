// From C++ exceptions to Python errors: the one place where they meet.
#pragma once

#include <c10/util/Exception.h>

#include <new>
#include <string>

#include "csrc/frame/error.h"
#include "csrc/structure/known.h"
#include "csrc/structure/python.h"

namespace pipecodec::codec {

[[noreturn]] inline void raise(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  throw structure::PythonError();
}

// Runs `body`, which gives a Ref, for a caller in C: no exception leaves it. `where` goes in front of what is
// wrong with a frame.
template <class Body>
PyObject* guarded(const std::string& where, Body body) noexcept {
  try {
    return body().release();
  } catch (const structure::PythonError&) {
  } catch (const frame::Error& error) {
    PyErr_SetString(structure::known().frame_error, (where + ": " + error.what()).c_str());
  } catch (const c10::Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

}  // namespace pipecodec::codec
