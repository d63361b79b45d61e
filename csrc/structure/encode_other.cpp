// The less common types: neither tensors nor the exact types that Encoder::node tests for first.
#include "csrc/frame/bytes.h"
#include "csrc/structure/attributes.h"
#include "csrc/structure/known.h"
#include "csrc/structure/names.h"
#include "csrc/structure/scope.h"
#include "csrc/structure/tensor.h"

namespace pipecodec::structure {

using frame::TypeCode;

namespace {

constexpr const char* kAdvice =
    "send tensors and plain values, such as dict(...) or str(...) of it, or register the type with "
    "pipecodec.register";

constexpr const char* kConstantAdvice = "keys, sets and the context of a registered type hold plain values";

bool extends(PyTypeObject* type, const char* module, const char* name) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(type->tp_mro); ++i) {
    PyObject* const base = PyTuple_GET_ITEM(type->tp_mro, i);
    if (shown(find_attribute(base, "__name__").get()) == name &&
        shown(find_attribute(base, "__module__").get()).starts_with(module)) {
      return true;
    }
  }
  return false;
}

const char* numpy_advice(PyTypeObject* type) {
  if (extends(type, "numpy", "generic")) return "send its .item()";
  if (extends(type, "numpy", "ndarray"))
    return "send torch.from_numpy(...) of it, or .tolist() where it has no numbers";
  return nullptr;
}

// A tensor of a type of its own would arrive without it.
[[noreturn]] void refuse_subclass(PyObject* value) {
  PyTypeObject* const type = Py_TYPE(value);
  const std::string is = "is of type " + type_name(value) + ", ";
  if (extends(type, "torch.nn.parameter", "UninitializedTensorMixin")) {
    throw Unsupported{
        is + "which has no shape and no values yet; run the module once before they are sent", {}, {}};
  }
  if (extends(type, "torch.distributed", "DTensor")) {
    throw Unsupported{
        is + "which is spread over processes; send its .to_local(), or its .full_tensor()", {}, {}};
  }
  if (!has_own_memory(value)) {
    throw Unsupported{
        is + "a subclass of torch.Tensor without memory of its own; send the plain tensors that it "
             "is made of, or register the type with pipecodec.register",
        {},
        {}};
  }
  throw Unsupported{is + "a subclass of torch.Tensor, and would arrive as a plain one; send its "
                         ".as_subclass(torch.Tensor), or register the type with pipecodec.register",
                    {},
                    {}};
}

}  // namespace

void Encoder::tensor_subclass(PyObject* value) {
  if (!constant_ && registered(value)) return;
  if (constant_ || is_nested(value))
    return leaf(value);  // torch's own type for a layout, as a sparse one's is
  refuse_subclass(value);
}

void Encoder::other(PyObject* value) {
  PyTypeObject* const type = Py_TYPE(value);
  const Known& types = known();
  if (is_a(type, types.tensor)) return tensor_subclass(value);
  if (type == &PyBytes_Type) return bytes(value);
  if (type == &PyComplex_Type) return complex_number(value);
  if (type == types.size) return size(value);
  if (type == types.dtype) return dtype(value);
  if (type == types.device) return device(value);
  if (type == types.ordered_dict) return ordered_dict(value);
  if (type == types.default_dict) return default_dict(value);
  if (type == types.deque) return deque(value);
  if (type == &PySet_Type) return constants(TypeCode::Set, value);
  if (type == &PyFrozenSet_Type) return constants(TypeCode::FrozenSet, value);
  if (type == &PySlice_Type) return members(TypeCode::Slice, value);
  if (type == &PyRange_Type) return members(TypeCode::Range, value);
  if (registered(value) || enum_member(value) || named_tuple(value) || dataclass(value)) return;
  if (const char* const advice = numpy_advice(type)) {
    throw Unsupported{
        "is of type " + type_name(value) + ", which is no type of Python's or torch's; " + advice, {}, {}};
  }
  if (const char* base = builtin_base(type)) {
    throw Unsupported{"is of type " + type_name(value) + ", a subclass of " + base +
                          " that would not come back as itself; " + "convert it with " + base +
                          "(...), or register the type with pipecodec.register",
                      {},
                      {}};
  }
  throw Unsupported{"is of type " + type_name(value) + ", which is not taken apart; " +
                        (constant_ ? kConstantAdvice : kAdvice),
                    {},
                    {}};
}

void Encoder::bytes(PyObject* value) {
  code(TypeCode::Bytes);
  structure.text({PyBytes_AS_STRING(value), static_cast<size_t>(PyBytes_GET_SIZE(value))});
}

void Encoder::complex_number(PyObject* value) {
  const Py_complex number = PyComplex_AsCComplex(value);
  code(constant_ ? TypeCode::ConstComplex : TypeCode::Complex);
  (constant_ ? structure : values).fixed(number.real);
  (constant_ ? structure : values).fixed(number.imag);
}

void Encoder::big_integer(PyObject* value) {
  const Ref bits = Ref::steal(PyObject_CallMethod(value, "bit_length", nullptr));
  const size_t length = PyLong_AsSize_t(bits.get()) / 8 + 1;
  const Ref to_bytes = attribute(value, "to_bytes");
  const Ref arguments = Ref::steal(Py_BuildValue("(ns)", static_cast<Py_ssize_t>(length), "little"));
  const Ref keywords = Ref::steal(Py_BuildValue("{sO}", "signed", Py_True));
  const Ref text = Ref::steal(PyObject_Call(to_bytes.get(), arguments.get(), keywords.get()));
  std::string_view written(PyBytes_AS_STRING(text.get()), length);
  // -2**71 has 72 bits beside its sign, and fits 9 bytes all the same.
  if (written[length - 1] == '\xff' && (written[length - 2] & 0x80) != 0) written.remove_suffix(1);
  code(TypeCode::BigInt);
  structure.text(written);
}

void Encoder::ordered_dict(PyObject* value) {
  const Level level(depth_);
  refuse_extra_attributes(value, nullptr);
  const Ref view = Ref::steal(PyObject_CallMethod(value, "items", nullptr));
  const Ref pairs = Ref::steal(PySequence_List(view.get()));
  const Py_ssize_t size = PyList_GET_SIZE(pairs.get());
  code(TypeCode::OrderedDict);
  structure.varint(static_cast<uint64_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* const pair = PyList_GET_ITEM(pairs.get(), i);
    key(PyTuple_GET_ITEM(pair, 0), value);
    child(
        value, [&] { return '[' + repr(PyTuple_GET_ITEM(pair, 0)) + ']'; },
        [&] { node(PyTuple_GET_ITEM(pair, 1)); });
  }
}

void Encoder::default_dict(PyObject* value) {
  const Level level(depth_);
  const Ref factory = attribute(value, "default_factory");
  std::string name;
  if (factory.get() != Py_None) {
    if (PyType_Check(factory.get())) name = class_name(reinterpret_cast<PyTypeObject*>(factory.get()));
    if (name.empty()) {
      throw Unsupported{
          "is a defaultdict whose factory " + repr(factory.get()) +
              " is not a class that can be found by name; use a class such as list, or send dict(...)",
          {},
          {}};
    }
  }
  code(TypeCode::DefaultDict);
  structure.text(name);
  pairs(value);
}

void Encoder::deque(PyObject* value) {
  const Level level(depth_);
  const Ref limit = attribute(value, "maxlen");
  const Ref members = Ref::steal(PySequence_Tuple(value));
  code(TypeCode::Deque);
  structure.varint(limit.get() == Py_None ? 0 : PyLong_AsSize_t(limit.get()) + 1);
  items(members.get());
}

void Encoder::constants(TypeCode type, PyObject* iterable) {
  const Level level(depth_);
  const bool outer = std::exchange(constant_, true);
  const Ref members = Ref::steal(PySequence_Tuple(iterable));
  code(type);
  items(members.get());
  constant_ = outer;
}

void Encoder::members(TypeCode type, PyObject* value) {
  const Level level(depth_);
  const bool outer = std::exchange(constant_, true);
  code(type);
  for (const char* name : {"start", "stop", "step"}) {
    const Ref member = attribute(value, name);
    const size_t before = structure.size();
    child(value, [&] { return std::string(".") + name; }, [&] { node(member.get()); });
    constexpr size_t kCodeAndLength = 3;
    if (type == TypeCode::Range && structure.size() - before > frame::kMaxRangePart + kCodeAndLength) {
      throw Unsupported{"is a range with a number of more than " + std::to_string(frame::kMaxRangePart) +
                            " bytes; send its start, stop and step",
                        {},
                        {}};
    }
  }
  constant_ = outer;
}

void Encoder::size(PyObject* value) { constants(TypeCode::Size, value); }

void Encoder::dtype(PyObject* value) {
  PyObject* const number = PyDict_GetItemWithError(known().dtype_codes, value);
  if (number == nullptr) throw Unsupported{"is " + repr(value) + ", a dtype frames have no code for", {}, {}};
  code(TypeCode::DType);
  structure.u8(static_cast<uint8_t>(PyLong_AsLong(number)));
}

void Encoder::device(PyObject* value) {
  const Ref text = Ref::steal(PyObject_Str(value));
  Py_ssize_t size = 0;
  const char* const utf8 = PyUnicode_AsUTF8AndSize(text.get(), &size);
  if (utf8 == nullptr) throw PythonError();
  code(TypeCode::Device);
  structure.text({utf8, static_cast<size_t>(size)});
}

std::string type_name(PyObject* value) {
  const Ref module = find_attribute(Py_TYPE(value), "__module__");
  const std::string name = shown(find_attribute(Py_TYPE(value), "__qualname__").get());
  const std::string prefix = shown(module.get());
  return prefix == "builtins" ? name : prefix + '.' + name;
}

std::string repr(PyObject* value) {
  constexpr size_t kShown = 60;
  PyObject* const made = PyObject_Repr(value);
  std::string text = made == nullptr ? "<" + std::string(Py_TYPE(value)->tp_name) + ">" : shown(made);
  Py_XDECREF(made);
  PyErr_Clear();
  if (text.size() <= kShown) return text;
  size_t end = kShown;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

}  // namespace pipecodec::structure
