#include "csrc/python/ring_types.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "csrc/python/unlocked.h"
#include "csrc/ring/reader.h"
#include "csrc/ring/writer.h"

namespace py = pybind11;

namespace pipecodec::python {
namespace {

using ring::Clock;
using ring::Error;
using ring::Process;
using ring::Reader;
using ring::Seconds;
using ring::Writer;

PyObject* type_of(Error::Kind kind) {
  switch (kind) {
    case Error::Kind::Late:
      return PyExc_TimeoutError;
    case Error::Kind::Missing:
      return PyExc_FileNotFoundError;
    case Error::Kind::Misused:
      return PyExc_RuntimeError;
    default:
      return PyExc_ConnectionError;
  }
}

// The bytes of objects that have the buffer interface, while this lives.
class Parts {
 public:
  explicit Parts(const py::args& objects) : views_(objects.size()) {
    for (size_t i = 0; i < objects.size(); ++i) {
      if (PyObject_GetBuffer(objects[i].ptr(), &views_[i], PyBUF_SIMPLE) != 0) {
        views_.resize(i);
        release();
        throw py::error_already_set();
      }
      spans.emplace_back(static_cast<const uint8_t*>(views_[i].buf), static_cast<size_t>(views_[i].len));
    }
  }
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;
  ~Parts() { release(); }

  std::vector<std::span<const uint8_t>> spans;

 private:
  void release() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
  }
  std::vector<Py_buffer> views_;
};

// Runs `act(time)`, which throws Error::Kind::Late when this time is up and has done nothing then, in pieces
// of the whole time. The user may interrupt between two.
template <class Act>
void in_pieces(double timeout, Act act) {
  const auto until = ring::after(Seconds(timeout));
  while (true) {
    const Seconds left = until - Clock::now();
    try {
      return unlocked([&] { act(std::min<Seconds>(left, ring::kLook)); });
    } catch (const Error& error) {
      if (error.kind != Error::Kind::Late || left <= ring::kLook) throw;
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

void post(Writer& writer, double timeout, const py::args& parts) {
  const Parts bytes(parts);
  in_pieces(timeout, [&](Seconds time) { writer.post(bytes.spans, time); });
}

void wait_taken(Writer& writer, uint64_t mark, double timeout) {
  in_pieces(timeout, [&](Seconds time) { writer.wait_taken(mark, time); });
}

void flush(Writer& writer, double timeout) {
  in_pieces(timeout, [&](Seconds time) { writer.flush(time); });
}

py::object take(Reader& reader, double timeout) {
  py::object message;
  reader.take(
      [&](size_t size) {
        message = py::reinterpret_steal<py::object>(
            PyByteArray_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
        if (!message) throw py::error_already_set();
        return reinterpret_cast<uint8_t*>(PyByteArray_AS_STRING(message.ptr()));
      },
      Seconds(timeout),
      [](const std::function<void()>& wait) {
        unlocked(wait);
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      });
  return message;
}

py::tuple this_process() {
  const Process process = Process::of(getpid());
  return py::make_tuple(process.number, process.began);
}

}  // namespace

void add_rings(py::module_& module) {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      PyErr_SetString(type_of(error.kind), error.what());
    }
  });

  py::class_<Writer>(module, "RingWriter")
      .def(py::init<size_t, size_t>(), py::arg("capacity"), py::arg("most"))
      .def_property_readonly("file", &Writer::file)
      .def_property_readonly("secret", &Writer::secret)
      .def(
          "connect",
          [](Writer& self, pid_t reader, uint64_t began) {
            unlocked([&] { self.connect({reader, began}); });
          },
          py::arg("reader"), py::arg("began"))
      .def_property_readonly("posted", &Writer::posted)
      .def("post", &post)
      .def("wait_taken", &wait_taken, py::arg("mark"), py::arg("timeout"))
      .def("flush", &flush, py::arg("timeout"))
      .def("shut", &Writer::shut);

  py::class_<Reader>(module, "RingReader")
      .def(py::init<pid_t, int, uint64_t>(), py::arg("writer"), py::arg("file"), py::arg("secret"))
      .def_property_readonly("ready", &Reader::ready)
      .def_property_readonly("taken", &Reader::taken)
      .def("take", &take, py::arg("timeout"))
      .def("shut", &Reader::shut);

  module.def("this_process", &this_process);
}

}  // namespace pipecodec::python
