// RingWriter and RingReader of the Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace pipecodec::python {

void add_rings(pybind11::module_& module);

}  // namespace pipecodec::python
