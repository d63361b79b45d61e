#include "csrc/structure/registered.h"

#include "csrc/frame/error.h"
#include "csrc/structure/known.h"
#include "csrc/structure/names.h"

namespace pipecodec::structure {
namespace {

// type -> (type, flatten, unflatten, name), and name -> the same tuple. Made once, never freed.
PyObject* by_type = nullptr;
PyObject* by_name = nullptr;
uint64_t count = 0;

void make_tables() {
  if (by_type != nullptr) return;
  by_type = Ref::steal(PyDict_New()).release();
  by_name = Ref::steal(PyDict_New()).release();
}

std::string utf8(PyObject* text) {
  Py_ssize_t size = 0;
  const char* const data = PyUnicode_AsUTF8AndSize(text, &size);
  if (data == nullptr) throw PythonError();
  return {data, static_cast<size_t>(size)};
}

Registered from_entry(PyObject* entry) {
  const auto item = [&](Py_ssize_t i) { return Ref::borrow(PyTuple_GET_ITEM(entry, i)); };
  return {utf8(PyTuple_GET_ITEM(entry, 3)), item(0), item(1), item(2), false};
}

PyObject* look_up(PyObject* table, PyObject* key) {  // borrowed
  if (table == nullptr) return nullptr;
  PyObject* const found = PyDict_GetItemWithError(table, key);
  if (found == nullptr && PyErr_Occurred() != nullptr) throw PythonError();
  return found;
}

bool find_in_pytree(PyTypeObject* type, Registered& found) {
  auto* const object = reinterpret_cast<PyObject*>(type);
  PyObject* const node = look_up(known().pytree_nodes, object);
  if (node == nullptr) return false;
  found.name = class_name(type);
  found.by_pytree = true;
  found.type = Ref::borrow(object);
  found.flatten = Ref::steal(PyObject_GetAttrString(node, "flatten_fn"));
  found.unflatten = Ref::steal(PyObject_GetAttrString(node, "unflatten_fn"));
  return true;
}

}  // namespace

void register_type(PyObject* type, PyObject* flatten, PyObject* unflatten, PyObject* name) {
  make_tables();
  PyObject* const same_name = look_up(by_name, name);
  if (same_name != nullptr && PyTuple_GET_ITEM(same_name, 0) != type) {
    PyErr_Format(PyExc_ValueError, "the name '%U' is registered for another type, %R; pass name=", name,
                 PyTuple_GET_ITEM(same_name, 0));
    throw PythonError();
  }
  const Ref entry = Ref::steal(PyTuple_Pack(4, type, flatten, unflatten, name));
  PyObject* const before = look_up(by_type, type);
  if (before != nullptr) check(PyDict_DelItem(by_name, PyTuple_GET_ITEM(before, 3)));
  check(PyDict_SetItem(by_name, name, entry.get()));
  check(PyDict_SetItem(by_type, type, entry.get()));
  ++count;
}

uint64_t registrations() { return count; }

bool find_registered(PyTypeObject* type, Registered& found) {
  if (PyObject* const entry = look_up(by_type, reinterpret_cast<PyObject*>(type))) {
    found = from_entry(entry);
    return true;
  }
  return find_in_pytree(type, found);
}

Registered find_registered(std::string_view name, size_t offset) {
  const Ref text =
      Ref::steal(PyUnicode_DecodeUTF8(name.data(), static_cast<Py_ssize_t>(name.size()), nullptr));
  if (PyObject* const entry = look_up(by_name, text.get())) return from_entry(entry);
  Registered found;
  const Ref type = look_up_class(name);
  if (type && find_in_pytree(reinterpret_cast<PyTypeObject*>(type.get()), found)) return found;
  throw frame::Error(frame::Reason::UnknownType, offset,
                     "no type is registered as '" + std::string(name) +
                         "' in this process; call pipecodec.register, or import the module that registers "
                         "it, before the frame is unpacked");
}

}  // namespace pipecodec::structure
