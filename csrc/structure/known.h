// The Python types and functions that both directions need, looked up once when the extension is loaded.
#pragma once

#include "csrc/frame/codes.h"
#include "csrc/structure/python.h"

namespace pipecodec::structure {

struct Known {
  PyTypeObject* ordered_dict;
  PyTypeObject* default_dict;
  PyTypeObject* deque;
  PyObject* enum_class;                  // enum.Enum
  PyObject* dataclass_fields;            // dataclasses.fields
  PyObject* dataclass_field;             // the mark of a field that is no class variable
  PyObject* object_new;                  // object.__new__
  PyTypeObject* tensor;                  // torch.Tensor
  PyTypeObject* parameter;               // torch.nn.Parameter
  PyTypeObject* size;                    // torch.Size
  PyTypeObject* dtype;                   // torch.dtype
  PyTypeObject* device;                  // torch.device
  PyObject* dtypes[frame::kDTypeCount];  // by code; null where this torch lacks the dtype
  PyObject* dtype_codes;                 // dict: torch.dtype -> code
  PyObject* pytree_nodes;                // dict: type -> its entry in torch's pytree

  PyObject* unsupported_type;
  PyObject* frame_error;
  PyObject* capacity_error;
  PyObject* structure_changed;
  PyObject* internal_error;
};

const Known& known();

// Called once, from the module's initialisation. Throws PythonError.
void load_known();

}  // namespace pipecodec::structure
