// Types that cross as a context and children, by a pair of functions registered here or with torch's pytree.
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

// Registers a type, in place of its earlier registration. Throws PythonError where another type has that
// name.
void register_type(PyObject* type, PyObject* flatten, PyObject* unflatten, PyObject* name);

// Changes whenever a type is registered, so that caches from before can be dropped.
uint64_t registrations();

// Finds the registration of exactly this type; false where there is none.
bool find_registered(PyTypeObject* type, Registered& found);

// Returns the registration of this name, as far as its module has been imported. Throws frame::Error with
// `offset` where there is none.
Registered find_registered(std::string_view name, size_t offset);

}  // namespace pipecodec::structure
