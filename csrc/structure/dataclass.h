// Dataclasses: which ones can cross, and how one is put together with none of its code running.
#pragma once

#include "csrc/frame/node.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

// Why values of this dataclass, or this field of it, cannot be restored without running the class's code; or
// null.
const char* unrestorable(PyTypeObject* dataclass);
const char* unrestorable_field(PyTypeObject* dataclass, PyObject* name);

// The class a node names. Throws frame::Error where it is no dataclass that can be restored.
Ref find_dataclass(const frame::Node& node);

// The names of its fields as a new set; read_field takes each away, so that none comes twice.
Ref field_names(PyObject* dataclass);
Ref read_field(frame::NodeReader& nodes, const frame::Node& node, PyObject* dataclass, PyObject* left);

Ref restore_dataclass(PyObject* dataclass);  // without its fields
void set_field(PyObject* value, PyObject* name, PyObject* field);

}  // namespace pipecodec::structure
