#include "csrc/python/codec_type.h"

#include <new>
#include <string_view>

#include "csrc/codec/boundary.h"
#include "csrc/codec/errors.h"
#include "csrc/codec/packer.h"
#include "csrc/codec/unpacker.h"
#include "csrc/python/arguments.h"
#include "csrc/python/docstrings.h"
#include "csrc/structure/attributes.h"

namespace pipecodec::python {
namespace {

using namespace codec;

using structure::check;
using structure::Ref;

PyTypeObject* codec_type = nullptr;

struct CodecObject {
  PyObject_HEAD Packer packer;
};

Packer& state(PyObject* self) { return reinterpret_cast<CodecObject*>(self)->packer; }

Ref pack_with(Packer& packer, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  static constexpr const char* const names[] = {"obj", "device"};
  PyObject* parsed[2] = {};
  parse("pack", names, 1, arguments, count, keywords, parsed);
  return packer.pack(parsed[0], parsed[1]);
}

PyObject* unpacked(PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  static constexpr const char* const names[] = {"tensors"};
  PyObject* parsed[1] = {};
  parse("unpack", names, 1, arguments, count, keywords, parsed);
  return parsed[0];
}

PyObject* codec_pack(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  return guarded(state(self).name(), [&] { return pack_with(state(self), arguments, count, keywords); });
}

PyObject* codec_check(PyObject* self, PyObject*) {
  return guarded(state(self).name(), [&] {
    state(self).check();
    return Ref::borrow(Py_None);
  });
}

// Tensors may not fit because their frame, which was not read, differs from the expected one. If so, raises
// that mismatch instead.
void explain(PyObject* self) {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* const fine = codec_check(self, nullptr);
  Py_XDECREF(fine);
  const bool found = fine == nullptr && (PyErr_ExceptionMatches(structure::known().structure_changed) != 0 ||
                                         PyErr_ExceptionMatches(structure::known().frame_error) != 0);
  if (!found) return PyErr_Restore(type, value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
}

PyObject* codec_unpack(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  PyObject* const value = guarded(state(self).name(), [&] {
    ReceivedFrame opened(unpacked(arguments, count, keywords));
    state(self).open(opened);
    return opened.build(0, nullptr);
  });
  if (value == nullptr) explain(self);
  return value;
}

PyObject* codec_send(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  return guarded(state(self).name(), [&] {
    static constexpr const char* const names[] = {"obj", "token", "device"};
    PyObject* parsed[3] = {};
    parse("send", names, 2, arguments, count, keywords, parsed);
    return send(state(self), parsed[0], parsed[1], parsed[2] == nullptr ? Py_None : parsed[2]);
  });
}

PyObject* codec_receive(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  PyObject* const received = guarded(state(self).name(), [&] {
    static constexpr const char* const names[] = {"tensors", "reuse", "known"};
    PyObject* parsed[3] = {};
    parse("receive", names, 1, arguments, count, keywords, parsed);
    const int reuse = parsed[1] == nullptr ? 1 : PyObject_IsTrue(parsed[1]);
    check(reuse);
    return receive(state(self), parsed[0], reuse != 0, parsed[2] == nullptr ? Py_None : parsed[2]);
  });
  if (received == nullptr && PyErr_ExceptionMatches(structure::known().frame_error) != 0) explain(self);
  return received;
}

PyObject* codec_reset(PyObject* self, PyObject*) {
  return guarded(state(self).name(), [&] {
    state(self).reset();
    return Ref::borrow(Py_None);
  });
}

PyObject* codec_stats(PyObject* self, void*) {
  const Stats& stats = state(self).stats;
  return Py_BuildValue("(KKKKK)", stats.frames, stats.hits, stats.bytes, stats.messages, stats.reads);
}

PyObject* codec_name(PyObject* self, void*) {
  const std::string& name = state(self).name();
  return PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size()));
}

PyObject* codec_evaluating(PyObject* self, void*) { return PyBool_FromLong(state(self).evaluating()); }

int codec_set_evaluating(PyObject* self, PyObject* value, void*) {
  const int on = value == nullptr ? 0 : PyObject_IsTrue(value);
  if (on < 0) return -1;
  state(self).set_evaluating(on != 0);
  return 0;
}

PyObject* codec_names(PyObject* self, void*) {
  return guarded("names", [&] {
    const std::vector<std::string>& names = state(self).names();
    if (names.empty()) return Ref::borrow(Py_None);
    Ref made = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(names.size())));
    for (size_t i = 0; i < names.size(); ++i) {
      PyTuple_SET_ITEM(
          made.get(), static_cast<Py_ssize_t>(i),
          Ref::steal(PyUnicode_FromStringAndSize(names[i].data(), static_cast<Py_ssize_t>(names[i].size())))
              .release());
    }
    return made;
  });
}

int codec_set_names(PyObject* self, PyObject* value, void*) {
  PyObject* const done = guarded("names", [&] {
    std::vector<std::string> names;
    if (value != nullptr && value != Py_None) {
      const Ref items = Ref::steal(PySequence_Tuple(value));
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items.get()); ++i) {
        const char* const name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(items.get(), i));
        if (name == nullptr) throw structure::PythonError();
        names.emplace_back(name);
      }
    }
    state(self).set_names(std::move(names));
    return Ref::borrow(Py_None);
  });
  Py_XDECREF(done);
  return done == nullptr ? -1 : 0;
}

PyObject* shared_or_none(const Ref& ref) { return Py_NewRef(ref ? ref.get() : Py_None); }

int replace(Ref& ref, PyObject* value) {
  ref = value == nullptr || value == Py_None ? Ref() : Ref::borrow(value);
  return 0;
}

PyObject* codec_donate_gradient(PyObject* self, void*) {
  return shared_or_none(state(self).ends->donate_gradient);
}

int codec_set_donate_gradient(PyObject* self, PyObject* value, void*) {
  return replace(state(self).ends->donate_gradient, value);
}

PyObject* codec_note_unused(PyObject* self, void*) { return shared_or_none(state(self).ends->note_unused); }

int codec_set_note_unused(PyObject* self, PyObject* value, void*) {
  return replace(state(self).ends->note_unused, value);
}

PyObject* codec_mark_unused(PyObject* self, void*) { return PyBool_FromLong(state(self).ends->mark_unused); }

int codec_set_mark_unused(PyObject* self, PyObject* value, void*) {
  const int on = value == nullptr ? 0 : PyObject_IsTrue(value);
  if (on < 0) return -1;
  state(self).ends->mark_unused = on != 0;
  return 0;
}

PyObject* codec_announce(PyObject* self, void*) { return shared_or_none(state(self).announce); }

int codec_set_announce(PyObject* self, PyObject* value, void*) {
  return replace(state(self).announce, value);
}

PyObject* codec_in_flight(PyObject* self, void*) { return shared_or_none(state(self).in_flight); }

int codec_set_in_flight(PyObject* self, PyObject* value, void*) {
  return replace(state(self).in_flight, value);
}

PyObject* codec_settled(PyObject* self, void*) { return PyBool_FromLong(state(self).settled); }

int codec_set_unused(PyObject* self, PyObject* value, void*) {
  PyObject* const done = guarded("unused", [&] {
    std::optional<std::vector<size_t>> unused;
    if (value != nullptr && value != Py_None) unused = structure::indices_of(value);
    state(self).ends->unused = std::move(unused);
    return Ref::borrow(Py_None);
  });
  Py_XDECREF(done);
  return done == nullptr ? -1 : 0;
}

int codec_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(state(self).ends->donate_gradient.get());
  Py_VISIT(state(self).ends->note_unused.get());
  Py_VISIT(state(self).announce.get());
  Py_VISIT(state(self).in_flight.get());
  return 0;
}

int codec_clear(PyObject* self) {
  replace(state(self).ends->donate_gradient, nullptr);
  replace(state(self).ends->note_unused, nullptr);
  replace(state(self).announce, nullptr);
  return replace(state(self).in_flight, nullptr);
}

Policy parse_policy(PyObject* differentiable) {
  Policy policy;
  if (PyUnicode_Check(differentiable)) {
    policy.kind = PyUnicode_CompareWithASCIIString(differentiable, "by-dtype") == 0 ? Policy::Kind::ByDType
                                                                                    : Policy::Kind::Auto;
    return policy;
  }
  policy.kind = Policy::Kind::Paths;
  const Ref paths = Ref::steal(PySequence_Tuple(differentiable));
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(paths.get()); ++i) {
    const char* const path = PyUnicode_AsUTF8(PyTuple_GET_ITEM(paths.get(), i));
    if (path == nullptr) throw structure::PythonError();
    policy.paths.insert(path);
  }
  return policy;
}

Read parse_read(std::string_view read) {
  if (read == "verified") return Read::Verified;
  return read == "auto" ? Read::Auto : Read::Always;
}

PyObject* codec_new(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
  return guarded("Codec", [&] {
    static const char* names[] = {"name", "capacity",      "differentiable", "dynamic",
                                  "read", "static_values", nullptr};
    const char *name = nullptr, *read = nullptr;
    PyObject *capacity = nullptr, *differentiable = nullptr;
    int dynamic = 0, static_values = 0;
    if (PyArg_ParseTupleAndKeywords(arguments, keywords, "sOOpsp", const_cast<char**>(names), &name,
                                    &capacity, &differentiable, &dynamic, &read, &static_values) == 0) {
      throw structure::PythonError();
    }
    std::optional<size_t> bytes;
    if (capacity != Py_None) {
      bytes = PyLong_AsSize_t(capacity);
      if (PyErr_Occurred() != nullptr) throw structure::PythonError();
    }
    Policy policy = parse_policy(differentiable);
    Ref self = Ref::steal(type->tp_alloc(type, 0));
    new (&state(self.get()))
        Packer(name, bytes, std::move(policy), dynamic != 0, Verifier(parse_read(read), static_values != 0));
    return self;
  });
}

void codec_dealloc(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  state(self).~Packer();
  type->tp_free(self);
  Py_DECREF(type);
}

// Each call makes a new frame: callers share no tensors.
PyObject* module_pack(PyObject*, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  return guarded("pack", [&] {
    Packer packer("", std::nullopt, {}, false, Verifier(Read::Always, false));
    return pack_with(packer, arguments, count, keywords);
  });
}

PyObject* module_unpack(PyObject*, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  return guarded("unpack", [&] {
    ReceivedFrame opened(unpacked(arguments, count, keywords));
    opened.read(nullptr);
    return opened.build(0, nullptr);
  });
}

template <class Function>
PyCFunction method(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef codec_methods[] = {
    {"pack", method(codec_pack), METH_FASTCALL | METH_KEYWORDS, kCodecPack},
    {"unpack", method(codec_unpack), METH_FASTCALL | METH_KEYWORDS, kCodecUnpack},
    {"check", codec_check, METH_NOARGS, nullptr},
    {"reset", codec_reset, METH_NOARGS, kReset},
    {"_send", method(codec_send), METH_FASTCALL | METH_KEYWORDS, kSend},
    {"_receive", method(codec_receive), METH_FASTCALL | METH_KEYWORDS, kReceive},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef codec_attributes[] = {
    {"counts", codec_stats, nullptr, nullptr, nullptr},
    {"name", codec_name, nullptr, nullptr, nullptr},
    {"evaluating", codec_evaluating, codec_set_evaluating, nullptr, nullptr},
    {"names", codec_names, codec_set_names, nullptr, nullptr},
    {"settled", codec_settled, nullptr, nullptr, nullptr},
    {"unused", nullptr, codec_set_unused, nullptr, nullptr},
    {"donate_gradient", codec_donate_gradient, codec_set_donate_gradient, nullptr, nullptr},
    {"note_unused", codec_note_unused, codec_set_note_unused, nullptr, nullptr},
    {"mark_unused", codec_mark_unused, codec_set_mark_unused, nullptr, nullptr},
    {"announce", codec_announce, codec_set_announce, nullptr, nullptr},
    {"in_flight", codec_in_flight, codec_set_in_flight, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef module_functions[] = {
    {"pack", method(module_pack), METH_FASTCALL | METH_KEYWORDS, kPack},
    {"unpack", method(module_unpack), METH_FASTCALL | METH_KEYWORDS, kUnpack},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void add_to_module(PyObject* module) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(codec_new)},
      {Py_tp_dealloc, reinterpret_cast<void*>(codec_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(codec_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(codec_clear)},
      {Py_tp_methods, codec_methods},
      {Py_tp_getset, codec_attributes},
      {0, nullptr},
  };
  PyType_Spec spec{"pipecodec._C.Codec", sizeof(CodecObject), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};
  codec_type = reinterpret_cast<PyTypeObject*>(Ref::steal(PyType_FromSpec(&spec)).release());
  check(PyModule_AddObjectRef(module, "Codec", reinterpret_cast<PyObject*>(codec_type)));
  check(PyModule_AddFunctions(module, module_functions));
}

}  // namespace pipecodec::python
