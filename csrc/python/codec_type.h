// The Python type _C.Codec, and the module functions pack and unpack: the calls that must be fast.
#pragma once

#include "csrc/structure/python.h"

namespace pipecodec::python {

// Adds the type and the functions to the module. Throws PythonError.
void add_to_module(PyObject* module);

}  // namespace pipecodec::python
