// Runs C++ code in which Python's other threads go on.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <exception>

namespace pipecodec::python {

inline bool finalizing() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// A thread that comes back while another one ends Python must touch nothing of it, and stands still, as
// Python 3.14 lets it. Before 3.14 Python unwinds such a thread, which no destructor lets through. The thread
// that ends Python comes back as always.
template <class Act>
void unlocked(const Act& act) {
  const bool ends_here = finalizing();
  PyThreadState* const state = PyEval_SaveThread();
  std::exception_ptr thrown;
  try {
    act();
  } catch (...) {
    thrown = std::current_exception();
  }
  while (!ends_here && finalizing()) ::pause();
  PyEval_RestoreThread(state);
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace pipecodec::python
