// The two duties of a container around its children: count the depth, and add the step of a child that
// failed.
#pragma once

#include "csrc/structure/encode.h"

namespace pipecodec::structure {

// Counts one more level of depth during its lifetime.
class Level {
 public:
  explicit Level(int& depth) : depth_(depth) {
    if (depth_ >= frame::kMaxDepth) {
      throw Unsupported{"is nested more than " + std::to_string(frame::kMaxDepth) +
                            " containers deep, which no frame holds; flatten the structure",
                        {},
                        {}};
    }
    ++depth_;
  }
  ~Level() { --depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  int& depth_;
};

// Runs `write` for one child. `step()` returns the child's step in the path; it is called only if `write`
// fails.
template <class Step, class Write>
void child(PyObject* container, Step step, Write write) {
  try {
    write();
  } catch (Unsupported& error) {
    error.steps.push_back(step());
    error.containers.push_back(container);
    throw;
  }
}

[[noreturn]] inline void changed(const char* name) {
  PyErr_Format(PyExc_RuntimeError, "a %s changed its size while it was packed", name);
  throw PythonError();
}

}  // namespace pipecodec::structure
