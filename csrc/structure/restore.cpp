#include "csrc/structure/restore.h"

#include "csrc/structure/encode.h"
#include "csrc/structure/known.h"
#include "csrc/structure/names.h"

namespace pipecodec::structure {
namespace {

using frame::Node;

PyTypeObject* as_type(const Ref& found) { return reinterpret_cast<PyTypeObject*>(found.get()); }

[[noreturn]] void python_failed(const Node& node) {
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0 || PyErr_ExceptionMatches(PyExc_MemoryError) != 0)
    throw PythonError();
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  const Ref text = Ref::steal(PyObject_Str(value));
  const char* const utf8 = PyUnicode_AsUTF8(text.get());
  const std::string why = utf8 == nullptr ? "it cannot be built" : utf8;
  PyErr_Clear();
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  reject(node, why);
}

}  // namespace

void reject(const Node& node, const std::string& why) {
  throw frame::Error(frame::Reason::Rejected, node.offset, why);
}

PyObject* class_attribute(PyTypeObject* type, const char* name) {
  const Ref key = Ref::steal(PyUnicode_FromString(name));
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(type->tp_mro); ++i) {
    PyObject* const names = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(type->tp_mro, i))->tp_dict;
    PyObject* const found = names == nullptr ? nullptr : PyDict_GetItemWithError(names, key.get());
    if (found != nullptr) return found;
  }
  return nullptr;
}

Ref accept(const Node& node, PyObject* result) {
  if (result == nullptr) python_failed(node);
  return Ref::steal(result);
}

void accept(const Node& node, int status) {
  if (status < 0) python_failed(node);
}

Ref restore_big_int(const Node& node) {
  const Ref from_bytes =
      Ref::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(&PyLong_Type), "from_bytes"));
  const Ref arguments = Ref::steal(
      Py_BuildValue("(y#s)", node.text.data(), static_cast<Py_ssize_t>(node.text.size()), "little"));
  const Ref keywords = Ref::steal(Py_BuildValue("{sO}", "signed", Py_True));
  return Ref::steal(PyObject_Call(from_bytes.get(), arguments.get(), keywords.get()));
}

Ref restore_dtype(const Node& node) {
  const auto code = static_cast<uint8_t>(node.dtype);
  PyObject* const dtype = known().dtypes[code];
  if (dtype == nullptr)
    reject(node, std::string("this torch has no dtype torch.") + frame::kDTypes[code].name);
  return Ref::borrow(dtype);
}

Ref restore_factory(const Node& node) {
  return node.text.empty() ? Ref::borrow(Py_None) : find_class(node.text, node.offset);
}

Ref restore_default_dict(PyObject* factory) {
  return Ref::steal(PyObject_CallOneArg(reinterpret_cast<PyObject*>(known().default_dict), factory));
}

Ref restore_limit(const Node& node) {
  if (node.number == 0) return Ref::borrow(Py_None);
  if (node.number - 1 < node.children) reject(node, "a deque is longer than its maxlen");
  if (node.number - 1 > static_cast<uint64_t>(PY_SSIZE_T_MAX)) reject(node, "a deque's maxlen is too large");
  return Ref::steal(PyLong_FromUnsignedLongLong(node.number - 1));
}

Ref restore_deque(PyObject* members, PyObject* limit) {
  return Ref::steal(
      PyObject_CallFunctionObjArgs(reinterpret_cast<PyObject*>(known().deque), members, limit, nullptr));
}

Ref restore_enum(const Node& node) {
  const Ref found = find_class(node.text, node.offset);
  if (PyType_IsSubtype(as_type(found), reinterpret_cast<PyTypeObject*>(known().enum_class)) == 0) {
    reject(node, '\'' + std::string(node.text) + "' is not an enum");
  }
  PyObject* const all = class_attribute(as_type(found), "_member_map_");
  const Ref name = Ref::steal(
      PyUnicode_DecodeUTF8(node.member.data(), static_cast<Py_ssize_t>(node.member.size()), nullptr));
  PyObject* const member =
      all == nullptr || !PyDict_Check(all) ? nullptr : PyDict_GetItemWithError(all, name.get());
  if (member == nullptr) {
    reject(node, "enum '" + std::string(node.text) + "' has no member '" + std::string(node.member) + '\'');
  }
  return Ref::borrow(member);
}

Ref find_named_tuple(const Node& node) {
  Ref found = find_class(node.text, node.offset);
  PyObject* const fields = class_attribute(as_type(found), "_fields");
  if (PyType_IsSubtype(as_type(found), &PyTuple_Type) == 0 || fields == nullptr || !PyTuple_Check(fields)) {
    reject(node, '\'' + std::string(node.text) + "' is not a namedtuple");
  }
  if (static_cast<uint64_t>(PyTuple_GET_SIZE(fields)) != node.children) {
    reject(node, "namedtuple '" + std::string(node.text) + "' has " +
                     std::to_string(PyTuple_GET_SIZE(fields)) + " fields in this process, the frame has " +
                     std::to_string(node.children));
  }
  return found;
}

Ref restore_named_tuple(PyObject* type, PyObject* members) {
  const Ref arguments = Ref::steal(PyTuple_Pack(1, members));
  return Ref::steal(PyTuple_Type.tp_new(reinterpret_cast<PyTypeObject*>(type), arguments.get(), nullptr));
}

Ref restore_registered(PyObject* type, PyObject* unflatten, PyObject* children, PyObject* context) {
  Ref made = Ref::steal(PyObject_CallFunctionObjArgs(unflatten, children, context, nullptr));
  if (reinterpret_cast<PyObject*>(Py_TYPE(made.get())) != type) {
    PyErr_Format(known().frame_error, "the registered unflatten of %s gave a %s",
                 reinterpret_cast<PyTypeObject*>(type)->tp_name, Py_TYPE(made.get())->tp_name);
    throw PythonError();
  }
  return made;
}

}  // namespace pipecodec::structure
