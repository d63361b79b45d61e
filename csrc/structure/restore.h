// Making one object of a type that is more than a code: found by name, checked, built without its __init__.
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

// An attribute of a class as its and its bases' dictionaries hold it; borrowed, null where there is none. No
// descriptor and no metaclass is asked.
PyObject* class_attribute(PyTypeObject* type, const char* name);

// A Python call that failed on what the frame says is the frame's fault: told as frame::Error.
Ref accept(const frame::Node& node, PyObject* result);
void accept(const frame::Node& node, int status);

}  // namespace pipecodec::structure
