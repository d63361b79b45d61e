#include "csrc/codec/errors.h"

#include <c10/util/Exception.h>

#include <new>

#include "csrc/frame/error.h"
#include "csrc/frame/internal.h"

namespace pipecodec::codec {
namespace {

using structure::Ref;

// Throws PythonError where it cannot be made.
void set_frame_error(const std::string& message, const frame::Error& error) {
  PyObject* const type = structure::known().frame_error;
  const Ref text =
      Ref::steal(PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "replace"));
  const Ref made = Ref::steal(PyObject_CallOneArg(type, text.get()));
  const Ref reason = Ref::steal(PyUnicode_FromString(frame::kReasonNames[static_cast<size_t>(error.reason)]));
  structure::check(PyObject_SetAttrString(made.get(), "reason", reason.get()));
  const Ref offset = Ref::steal(PyLong_FromSize_t(error.offset));
  structure::check(PyObject_SetAttrString(made.get(), "offset", offset.get()));
  PyErr_SetObject(type, made.get());
}

}  // namespace

void set_python_error(const std::string& where) noexcept {
  try {
    try {
      throw;
    } catch (const frame::Error& error) {
      set_frame_error(where + ": " + error.what(), error);
    }
  } catch (const structure::PythonError&) {
  } catch (const frame::InternalError& error) {
    PyErr_SetString(structure::known().internal_error, error.what());
  } catch (const c10::Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

}  // namespace pipecodec::codec
