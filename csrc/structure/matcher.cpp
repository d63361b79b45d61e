#include "csrc/structure/matcher.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "csrc/frame/internal.h"
#include "csrc/structure/known.h"

namespace pipecodec::structure {
namespace {

constexpr size_t kCompared = 8;  // most leaves compared pairwise; more are hashed

bool is_plain_tensor(PyObject* object) {
  return Py_TYPE(object) == known().tensor || Py_TYPE(object) == known().parameter;
}

bool same_text(PyObject* a, PyObject* b) {
  if (a == b) return true;
  if (!PyUnicode_CheckExact(b) || PyUnicode_KIND(a) != PyUnicode_KIND(b) ||
      PyUnicode_GET_LENGTH(a) != PyUnicode_GET_LENGTH(b)) {
    return false;
  }
  return std::memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b),
                     static_cast<size_t>(PyUnicode_GET_LENGTH(a)) * PyUnicode_KIND(a)) == 0;
}

}  // namespace

class Matcher::Learner {
 public:
  Learner(Matcher& matcher, const Encoder& encoder) : pattern_(matcher) {
    for (size_t i = 0; i < encoder.leaves.size(); ++i) {
      leaves_.emplace(encoder.leaves[i].tensor, static_cast<uint32_t>(i));
    }
  }

  bool node(PyObject* value) {
    PyTypeObject* const type = Py_TYPE(value);
    if (is_plain_tensor(value)) return leaf(value);
    if (type == &PyTuple_Type) {
      add(Kind::Tuple, PyTuple_GET_SIZE(value));
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
        if (!node(PyTuple_GET_ITEM(value, i))) return false;
      }
      return true;
    }
    if (type == &PyList_Type) {
      add(Kind::List, PyList_GET_SIZE(value));
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i) {
        if (!node(PyList_GET_ITEM(value, i))) return false;
      }
      return true;
    }
    if (type == &PyDict_Type) return dict(value);
    if (type == &PyLong_Type) {
      int overflow = 0;
      PyLong_AsLongLongAndOverflow(value, &overflow);
      return overflow == 0 && number(Kind::Int);
    }
    if (type == &PyFloat_Type) return number(Kind::Float);
    if (type == &PyUnicode_Type) return add(Kind::Text, 0, Ref::borrow(value));
    if (value == Py_None || type == &PyBool_Type || type == known().dtype) {
      return add(Kind::Same, 0, Ref::borrow(value));
    }
    return false;
  }

 private:
  bool add(Kind kind, Py_ssize_t count, Ref object = {}) {
    pattern_.steps_.push_back({kind, static_cast<uint32_t>(count), std::move(object)});
    return true;
  }

  bool number(Kind kind) {
    pattern_.values_.resize(pattern_.values_.size() + 8);
    return add(kind, 0);
  }

  bool leaf(PyObject* tensor) {
    const auto found = leaves_.find(tensor);
    if (found == leaves_.end()) return false;  // the value changed since it was encoded
    if (found->second < pattern_.infos_.size()) return add(Kind::Alias, found->second);
    if (found->second != pattern_.infos_.size()) return false;
    TensorInfo info;
    if (describe_tensor(tensor, info) != nullptr || info.nested) return false;
    pattern_.infos_.push_back(info);
    return add(Kind::Leaf, 0);
  }

  bool dict(PyObject* value) {
    const size_t at = pattern_.steps_.size();
    add(Kind::Dict, PyDict_GET_SIZE(value));
    std::vector<PyObject*> keys;
    Py_ssize_t position = 0;
    PyObject *key = nullptr, *item = nullptr;
    while (PyDict_Next(value, &position, &key, &item) != 0) {
      if (!PyUnicode_CheckExact(key) || !node(item)) return false;
      keys.push_back(key);
    }
    Ref owned = Ref::steal(PyTuple_New(static_cast<Py_ssize_t>(keys.size())));
    for (size_t i = 0; i < keys.size(); ++i) {
      PyTuple_SET_ITEM(owned.get(), static_cast<Py_ssize_t>(i), Py_NewRef(keys[i]));
    }
    pattern_.steps_[at].object = std::move(owned);
    return true;
  }

  Matcher& pattern_;
  std::unordered_map<PyObject*, uint32_t> leaves_;
};

std::unique_ptr<Matcher> Matcher::learn(PyObject* value, const Encoder& encoder) {
  auto matcher = std::make_unique<Matcher>();
  if (!Learner(*matcher, encoder).node(value)) return nullptr;
  size_t dims = 0;
  for (const TensorInfo& info : matcher->infos_) dims += info.shape.size();
  matcher->shapes_.reserve(dims);  // the spans refer to it, so it must not grow later
  for (TensorInfo& info : matcher->infos_) {
    const size_t begin = matcher->shapes_.size();
    matcher->shapes_.insert(matcher->shapes_.end(), info.shape.begin(), info.shape.end());
    info.shape = {matcher->shapes_.data() + begin, info.shape.size()};
  }
  if (matcher->leaves() > kCompared) matcher->seen_.resize(std::bit_ceil(matcher->leaves() * 2));
  return matcher;
}

class Matcher::Match {
 public:
  Match(Matcher& matcher, PyObject** leaves)
      : step_(matcher.steps_.data()),
        first_leaf_(leaves),
        next_leaf_(leaves),
        values_(matcher.values_.data()),
        tensor_(known().tensor),
        parameter_(known().parameter) {}

  bool node(PyObject* value) {
    const Step& step = *step_++;
    PyTypeObject* const type = Py_TYPE(value);
    switch (step.kind) {
      case Kind::Leaf:
        if (type != tensor_ && type != parameter_) return false;
        *next_leaf_++ = Py_NewRef(value);
        return true;
      case Kind::Alias:
        return value == first_leaf_[step.count];
      case Kind::Same:
        return value == step.object.get();
      case Kind::Text:
        return same_text(step.object.get(), value);
      case Kind::Int: {
        int overflow = 0;
        if (type != &PyLong_Type) return false;
        put<int64_t>(PyLong_AsLongLongAndOverflow(value, &overflow));
        return overflow == 0;
      }
      case Kind::Float:
        if (type != &PyFloat_Type) return false;
        put<double>(PyFloat_AS_DOUBLE(value));
        return true;
      case Kind::List:
        return type == &PyList_Type && PyList_GET_SIZE(value) == static_cast<Py_ssize_t>(step.count) &&
               items(reinterpret_cast<PyListObject*>(value)->ob_item, step.count);
      case Kind::Tuple:
        return type == &PyTuple_Type && PyTuple_GET_SIZE(value) == static_cast<Py_ssize_t>(step.count) &&
               items(reinterpret_cast<PyTupleObject*>(value)->ob_item, step.count);
      case Kind::Dict:
        return type == &PyDict_Type && PyDict_GET_SIZE(value) == static_cast<Py_ssize_t>(step.count) &&
               pairs(value, step.object.get());
    }
    PIPECODEC_BUG("a step of no kind");
  }

  // Whether every step was taken, and every number and leaf found.
  bool complete(const Matcher& matcher) const {
    return step_ == matcher.steps_.data() + matcher.steps_.size() &&
           values_ == matcher.values_.data() + matcher.values_.size() &&
           next_leaf_ == first_leaf_ + matcher.leaves();
  }

 private:
  template <class T>
  void put(T number) {
    std::memcpy(values_, &number, sizeof(T));
    values_ += sizeof(T);
  }

  // Matches one item; most items are leaves.
  bool item(PyObject* value) {
    if (step_->kind != Kind::Leaf) return node(value);
    ++step_;
    if (Py_TYPE(value) != tensor_ && Py_TYPE(value) != parameter_) return false;
    *next_leaf_++ = Py_NewRef(value);
    return true;
  }

  bool items(PyObject* const* at, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      if (!item(at[i])) return false;
    }
    return true;
  }

  bool pairs(PyObject* dict, PyObject* keys) {
    Py_ssize_t position = 0;
    PyObject *key = nullptr, *item = nullptr;
    for (Py_ssize_t i = 0; PyDict_Next(dict, &position, &key, &item) != 0; ++i) {
      if (!same_text(PyTuple_GET_ITEM(keys, i), key) || !this->item(item)) return false;
    }
    return true;
  }

  const Step* step_;
  PyObject** first_leaf_;
  PyObject** next_leaf_;
  uint8_t* values_;
  PyTypeObject* tensor_;
  PyTypeObject* parameter_;
};

bool Matcher::match(PyObject* value, PyObject** leaves) {
  Match matcher(*this, leaves);
  if (!matcher.node(value)) return false;
  PIPECODEC_DEBUG_CHECK(matcher.complete(*this));
  return distinct(leaves) && all_are(leaves, infos_);
}

// False where one tensor stands at two places, which would be an alias. May be false for distinct tensors
// too: then the encoder decides.
bool Matcher::distinct(PyObject* const* leaves) {
  const size_t count = infos_.size();
  if (count <= kCompared) {
    for (size_t i = 1; i < count; ++i) {
      for (size_t k = 0; k < i; ++k) {
        if (leaves[i] == leaves[k]) return false;
      }
    }
    return true;
  }
  if (++generation_ == 0) {
    seen_.assign(seen_.size(), Seen{});
    generation_ = 1;
  }
  const size_t mask = seen_.size() - 1;
  const int shift = std::countl_zero(static_cast<uint64_t>(mask));
  for (size_t i = 0; i < count; ++i) {
    const auto bits = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(leaves[i]) >> 4);
    size_t at = bits * uint64_t{0x9E3779B97F4A7C15} >> shift;  // Fibonacci hashing
    while (seen_[at].generation == generation_) {
      if (seen_[at].low_bits == bits) return false;
      at = (at + 1) & mask;
    }
    seen_[at] = {generation_, bits};
  }
  return true;
}

}  // namespace pipecodec::structure
