#include "csrc/structure/names.h"

#include "csrc/frame/error.h"

namespace pipecodec::structure {
namespace {

Ref text(std::string_view s) {
  return Ref::steal(PyUnicode_DecodeUTF8(s.data(), static_cast<Py_ssize_t>(s.size()), nullptr));
}

// Null where there is no such class; leaves a Python error set only for lack of memory.
Ref look_up(std::string_view module, std::string_view qualified) {
  PyObject* modules = PySys_GetObject("modules");  // borrowed
  if (modules == nullptr || !PyDict_CheckExact(modules)) return {};
  PyObject* found = PyDict_GetItemWithError(modules, text(module).get());
  if (found == nullptr || !PyModule_Check(found)) return {};
  PyObject* names = PyModule_GetDict(found);
  while (true) {
    const size_t dot = qualified.find('.');
    found = PyDict_GetItemWithError(names, text(qualified.substr(0, dot)).get());
    if (found == nullptr || !PyType_Check(found)) return {};
    if (dot == std::string_view::npos) return Ref::borrow(found);
    names = reinterpret_cast<PyTypeObject*>(found)->tp_dict;
    if (names == nullptr) return {};
    qualified.remove_prefix(dot + 1);
  }
}

std::string utf8_attribute(PyTypeObject* type, const char* name) {
  const Ref value = Ref::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name));
  const char* utf8 = PyUnicode_Check(value.get()) ? PyUnicode_AsUTF8(value.get()) : nullptr;
  if (utf8 == nullptr) {
    PyErr_Clear();
    return "";
  }
  return utf8;
}

}  // namespace

std::string class_name(PyTypeObject* type) {
  const std::string module = utf8_attribute(type, "__module__");
  const std::string qualified = utf8_attribute(type, "__qualname__");
  const Ref found = look_up(module, qualified);
  if (found.get() != reinterpret_cast<PyObject*>(type)) return "";
  return module + ':' + qualified;
}

Ref look_up_class(std::string_view name) {
  const size_t colon = name.find(':');
  if (colon == std::string_view::npos) return {};
  return look_up(name.substr(0, colon), name.substr(colon + 1));
}

Ref find_class(std::string_view name, size_t offset) {
  Ref found = look_up_class(name);
  if (!found) {
    throw frame::Error(frame::Reason::UnknownType, offset,
                       "this process knows no class '" + std::string(name) +
                           "'; import its module here before the frame is unpacked");
  }
  return found;
}

}  // namespace pipecodec::structure
