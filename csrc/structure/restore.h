// Builds one object of a type that has to be found and checked first, without calling its __init__.
#pragma once

#include "csrc/frame/node.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

Ref restore_big_int(const frame::Node& node);
Ref restore_dtype(const frame::Node& node);
Ref restore_enum(const frame::Node& node);

Ref restore_factory(const frame::Node& node);  // of a defaultdict
Ref restore_default_dict(PyObject* factory);   // empty

Ref restore_limit(const frame::Node& node);  // of a deque
Ref restore_deque(PyObject* members, PyObject* limit);

Ref find_named_tuple(const frame::Node& node);
Ref restore_named_tuple(PyObject* type, PyObject* members);

Ref restore_registered(PyObject* type, PyObject* unflatten, PyObject* children, PyObject* context);

[[noreturn]] void reject(const frame::Node& node, const std::string& why);

// A class attribute, looked up in its and its bases' dictionaries only, without descriptors and metaclasses;
// borrowed, null where there is none.
PyObject* class_attribute(PyTypeObject* type, const char* name);

// Passes on the result of a Python call on the frame's contents; if it failed, throws frame::Error.
Ref accept(const frame::Node& node, PyObject* result);
void accept(const frame::Node& node, int status);

}  // namespace pipecodec::structure
