// Dataclasses: tells which ones can cross, and builds one without running its code.
#pragma once

#include "csrc/frame/node.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

// The reason why values of this dataclass, or this field of it, cannot be restored without running the
// class's code; or null.
const char* unrestorable(PyTypeObject* dataclass);
const char* unrestorable_field(PyTypeObject* dataclass, PyObject* name);

// The class that a node names. Throws frame::Error where it is no dataclass that can be restored.
Ref find_dataclass(const frame::Node& node);

// The names of the dataclass's fields as a new set. read_field removes each name that it reads, so that none
// comes twice.
Ref field_names(PyObject* dataclass);
Ref read_field(frame::NodeReader& nodes, const frame::Node& node, PyObject* dataclass, PyObject* left);

Ref restore_dataclass(PyObject* dataclass);  // without its fields
void set_field(PyObject* value, PyObject* name, PyObject* field);

}  // namespace pipecodec::structure
