#include "csrc/structure/known.h"

namespace pipecodec::structure {
namespace {

Known loaded;

PyObject* attribute(PyObject* module, const char* name) {
  return Ref::steal(PyObject_GetAttrString(module, name)).release();
}

PyTypeObject* type(PyObject* module, const char* name) {
  PyObject* found = attribute(module, name);
  if (!PyType_Check(found)) {
    PyErr_Format(PyExc_TypeError, "%s is not a type", name);
    throw PythonError();
  }
  return reinterpret_cast<PyTypeObject*>(found);
}

Ref import(const char* name) { return Ref::steal(PyImport_ImportModule(name)); }

}  // namespace

const Known& known() { return loaded; }

void load_known() {
  const Ref collections = import("collections");
  loaded.ordered_dict = type(collections.get(), "OrderedDict");
  loaded.default_dict = type(collections.get(), "defaultdict");
  loaded.deque = type(collections.get(), "deque");
  loaded.enum_class = attribute(import("enum").get(), "Enum");
  const Ref dataclasses = import("dataclasses");
  loaded.dataclass_fields = attribute(dataclasses.get(), "fields");
  loaded.dataclass_field = attribute(dataclasses.get(), "_FIELD");
  loaded.object_new = attribute(reinterpret_cast<PyObject*>(&PyBaseObject_Type), "__new__");

  const Ref torch = import("torch");
  loaded.tensor = type(torch.get(), "Tensor");
  loaded.parameter = type(import("torch.nn").get(), "Parameter");
  loaded.size = type(torch.get(), "Size");
  loaded.dtype = type(torch.get(), "dtype");
  loaded.device = type(torch.get(), "device");
  loaded.dtype_codes = Ref::steal(PyDict_New()).release();
  for (int code = 0; code < frame::kDTypeCount; ++code) {
    if (PyObject_HasAttrString(torch.get(), frame::kDTypes[code].name) == 0) continue;
    loaded.dtypes[code] = attribute(torch.get(), frame::kDTypes[code].name);
    check(PyDict_SetItem(loaded.dtype_codes, loaded.dtypes[code], Ref::steal(PyLong_FromLong(code)).get()));
  }

  loaded.pytree_nodes = attribute(import("torch.utils._pytree").get(), "SUPPORTED_NODES");

  const Ref errors = import("pipecodec.errors");
  loaded.unsupported_type = attribute(errors.get(), "UnsupportedTypeError");
  loaded.frame_error = attribute(errors.get(), "FrameError");
  loaded.capacity_error = attribute(errors.get(), "FrameCapacityError");
  loaded.structure_changed = attribute(errors.get(), "StructureChangedError");
  loaded.internal_error = attribute(errors.get(), "InternalError");
}

}  // namespace pipecodec::structure
