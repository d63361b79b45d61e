// Classes by name: written as "module:qualified.name", and found only in modules that this process has
// imported.
#pragma once

#include <string>
#include <string_view>

#include "csrc/structure/python.h"

namespace pipecodec::structure {

// The name of a class; "" if the name does not lead back to that very class (made in a function, or replaced
// since), so that its values could not be restored.
std::string class_name(PyTypeObject* type);

// The class of that name, or nothing.
Ref look_up_class(std::string_view name);

// The class of that name, as an owned reference. Looks only into sys.modules and class dictionaries, never
// through getattr, so nothing is imported and no code runs. Throws frame::Error with `offset` where there is
// none.
Ref find_class(std::string_view name, size_t offset);

}  // namespace pipecodec::structure
