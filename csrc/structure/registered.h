// Types that cross as a context and children, by a pair of functions: registered here, or with torch's
// pytree.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "csrc/structure/python.h"

namespace pipecodec::structure {

struct Registered {
  std::string name;  // on the wire
  Ref type;
  Ref flatten;    // value -> (children, context)
  Ref unflatten;  // (children, context) -> value
  bool by_pytree = false;
};

// Registers a type, in place of what it was registered with before. Throws PythonError where another type has
// that name.
void register_type(PyObject* type, PyObject* flatten, PyObject* unflatten, PyObject* name);

// Changes whenever a type is registered, so that what was remembered before can be forgotten.
uint64_t registrations();

// What is registered for exactly this type; false where nothing is.
bool find_registered(PyTypeObject* type, Registered& found);

// What is registered under a name, among what this process has already imported. Throws frame::Error with
// `offset` where nothing is.
Registered find_registered(std::string_view name, size_t offset);

}  // namespace pipecodec::structure
