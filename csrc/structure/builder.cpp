#include "csrc/structure/builder.h"

#include <cstring>

#include "csrc/frame/internal.h"
#include "csrc/structure/constants.h"
#include "csrc/structure/dataclass.h"
#include "csrc/structure/known.h"
#include "csrc/structure/registered.h"
#include "csrc/structure/restore.h"

namespace pipecodec::structure {

using frame::Node;
using frame::TypeCode;

// Turns nodes into steps.
class Builder::Compiler {
 public:
  Compiler(const uint8_t* frame, const frame::Layout& layout, std::vector<Step>& steps)
      : nodes_(frame, layout.header), steps_(steps) {
    steps.reserve(layout.nodes);
  }

  void node() {
    if (nodes_.skip_tensor()) {
      steps_.emplace_back().count = next_leaf_++;
      return;
    }
    const Node& node = nodes_.next();
    switch (node.code) {
      case TypeCode::Alias:
        return add(Kind::Leaf, node.number);
      case TypeCode::Int:
        return add(Kind::Int, 0);
      case TypeCode::Float:
        return add(Kind::Float, 0);
      case TypeCode::Complex:
        return add(Kind::Complex, 0);
      case TypeCode::List:
        return items(Kind::List, node, {});
      case TypeCode::Tuple:
        return items(Kind::Tuple, node, {});
      case TypeCode::Deque:
        return items(Kind::Deque, node, restore_limit(node));
      case TypeCode::NamedTuple:
        return items(Kind::NamedTuple, node, find_named_tuple(node));
      case TypeCode::Dict:
        return pairs(Kind::Dict, node, {});
      case TypeCode::OrderedDict:
        return pairs(Kind::OrderedDict, node, {});
      case TypeCode::DefaultDict:
        return pairs(Kind::DefaultDict, node, restore_factory(node));
      case TypeCode::Dataclass:
        return dataclass(node);
      case TypeCode::Registered:
        return registered(node);
      case TypeCode::Set:
        return add(Kind::Set, 0, constants_.finish(node));
      case TypeCode::Tensor:
      case TypeCode::Scalar:
      case TypeCode::None:
      case TypeCode::False:
      case TypeCode::True:
      case TypeCode::ConstInt:
      case TypeCode::BigInt:
      case TypeCode::ConstFloat:
      case TypeCode::ConstComplex:
      case TypeCode::Str:
      case TypeCode::Bytes:
      case TypeCode::FrozenSet:
      case TypeCode::Enum:
      case TypeCode::Size:
      case TypeCode::DType:
      case TypeCode::Device:
      case TypeCode::Slice:
      case TypeCode::Range:
        return add(Kind::Constant, 0, constants_.finish(node));
    }
  }

 private:
  void add(Kind kind, uint64_t count, Ref object = {}, Ref keys = {}) {
    Step& step = steps_.emplace_back();
    step.kind = kind;
    step.count = static_cast<uint32_t>(count);
    step.object = std::move(object);
    step.keys = std::move(keys);
  }

  // Takes nodes by value: reading the children overwrites the reader's.

  void items(Kind kind, Node node, Ref object) {
    add(kind, node.children, std::move(object));
    for (uint64_t i = 0; i < node.children; ++i) this->node();
  }

  void pairs(Kind kind, Node node, Ref object) {
    const size_t at = steps_.size();
    add(kind, node.children / 2, std::move(object));
    Keys keys;
    keys.objects.reserve(node.children / 2);
    keys.costs.reserve(node.children / 2);
    for (uint64_t i = 0; i < node.children / 2; ++i) {
      constants_.read_key(keys);
      this->node();
    }
    steps_[at].keys = constants_.as_dict(node, keys);
    if (kind != Kind::Dict) return;
    Ref lies_in_order = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(keys.objects.size())));
    for (size_t i = 0; i < keys.objects.size(); ++i)
      PyTuple_SET_ITEM(lies_in_order.get(), static_cast<Py_ssize_t>(i), keys.objects[i].release());
    steps_[at].object = std::move(lies_in_order);
  }

  void dataclass(Node node) {
    const size_t at = steps_.size();
    add(Kind::Dataclass, node.children / 2, find_dataclass(node));
    const Ref left = field_names(steps_[at].object.get());
    Ref names = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(node.children / 2)));
    for (uint64_t i = 0; i < node.children / 2; ++i) {
      PyTuple_SET_ITEM(names.get(), static_cast<Py_ssize_t>(i),
                       read_field(nodes_, node, steps_[at].object.get(), left.get()).release());
      this->node();
    }
    steps_[at].keys = std::move(names);
  }

  // The context is built anew for every value, since an unflatten may keep it and write into it.
  void registered(Node node) {
    Registered found = find_registered(node.text, node.offset);
    add(Kind::Registered, node.children - 1, std::move(found.type), std::move(found.unflatten));
    for (uint64_t i = 0; i < node.children; ++i) this->node();
  }

  frame::NodeReader nodes_;
  ConstantReader constants_{nodes_};
  std::vector<Step>& steps_;
  uint32_t next_leaf_ = 0;
};

Builder::Builder(const uint8_t* frame, const frame::Layout& layout) {
  Compiler(frame, layout, steps_).node();
}

// Turns steps into the value.
class Builder::Run {
 public:
  Run(const Step* steps, const uint8_t* values, std::span<PyObject* const> leaves)
      : step_(steps), values_(values), leaves_(leaves) {}

  Ref value() {
    const Step& step = *step_++;
    switch (step.kind) {
      case Kind::Leaf:
        PIPECODEC_DEBUG_CHECK(step.count < leaves_.size());
        return Ref::borrow(leaves_[step.count]);
      case Kind::Constant:
        return Ref::borrow(step.object.get());
      case Kind::Int:
        return Ref::steal(PyLong_FromLongLong(next<int64_t>()));
      case Kind::Float:
        return Ref::steal(PyFloat_FromDouble(next<double>()));
      case Kind::Complex: {
        const auto real = next<double>();
        return Ref::steal(PyComplex_FromDoubles(real, next<double>()));
      }
      case Kind::List:
        return list(step);
      case Kind::Tuple:
        return tuple(step);
      case Kind::Dict:
        return dict(step);
      case Kind::OrderedDict:
        return fill(step, Ref::steal(PyObject_CallNoArgs(reinterpret_cast<PyObject*>(known().ordered_dict))));
      case Kind::DefaultDict:
        return fill(step, restore_default_dict(step.object.get()));
      case Kind::Deque: {
        const Ref members = list(step);
        return restore_deque(members.get(), step.object.get());
      }
      case Kind::Set:
        return Ref::steal(PySet_New(step.object.get()));
      case Kind::NamedTuple: {
        const Ref members = tuple(step);
        return restore_named_tuple(step.object.get(), members.get());
      }
      case Kind::Dataclass: {
        Ref made = restore_dataclass(step.object.get());
        for (uint32_t i = 0; i < step.count; ++i) {
          const Ref item = value();
          set_field(made.get(), PyTuple_GET_ITEM(step.keys.get(), i), item.get());
        }
        return made;
      }
      case Kind::Registered: {
        const Ref context = value();
        const Ref children = list(step);
        return restore_registered(step.object.get(), step.keys.get(), children.get(), context.get());
      }
    }
    PIPECODEC_BUG("a step of no kind");
  }

  const Step* end() const { return step_; }

 private:
  template <class T>
  T next() {
    T number;
    std::memcpy(&number, values_, sizeof(T));
    values_ += sizeof(T);
    return number;
  }

  // Builds one item; most items are leaves.
  PyObject* item() {
    if (step_->kind == Kind::Leaf) return Py_NewRef(leaves_[(step_++)->count]);
    return value().release();
  }

  Ref list(const Step& step) {
    Ref made = Ref::steal(PyList_New(step.count));
    for (uint32_t i = 0; i < step.count; ++i) PyList_SET_ITEM(made.get(), i, item());
    return made;
  }

  Ref tuple(const Step& step) {
    Ref made = Ref::steal(PyTuple_New(step.count));
    for (uint32_t i = 0; i < step.count; ++i) PyTuple_SET_ITEM(made.get(), i, item());
    return made;
  }

  // A copy of the keys has its final size at once, so setting their values moves nothing.
  Ref dict(const Step& step) {
    Ref made = Ref::steal(PyDict_Copy(step.keys.get()));
    PyObject* const keys = step.object.get();
    for (uint32_t i = 0; i < step.count; ++i) {
      if (step_->kind == Kind::Leaf) {
        check(PyDict_SetItem(made.get(), PyTuple_GET_ITEM(keys, i), leaves_[(step_++)->count]));
      } else {
        const Ref item = value();
        check(PyDict_SetItem(made.get(), PyTuple_GET_ITEM(keys, i), item.get()));
      }
    }
    return made;
  }

  Ref fill(const Step& step, Ref mapping) {
    Py_ssize_t position = 0;
    PyObject *key = nullptr, *unused = nullptr;
    while (PyDict_Next(step.keys.get(), &position, &key, &unused) != 0) {
      const Ref item = value();
      check(PyObject_SetItem(mapping.get(), key, item.get()));
    }
    return mapping;
  }

  const Step* step_;
  const uint8_t* values_;
  std::span<PyObject* const> leaves_;
};

Ref Builder::build(const uint8_t* values, std::span<PyObject* const> leaves) const {
  Run run(steps_.data(), values, leaves);
  Ref value = run.value();
  PIPECODEC_DEBUG_CHECK(run.end() == steps_.data() + steps_.size());
  return value;
}

}  // namespace pipecodec::structure
