#include "csrc/python/ring_types.h"

#include <algorithm>
#include <vector>

#include "csrc/ring/ring.h"

namespace py = pybind11;

namespace pipecodec::python {
namespace {

using ring::Error;
using ring::Reader;
using ring::Seconds;
using ring::Writer;

PyObject* type_of(Error::Kind kind) {
  switch (kind) {
    case Error::Kind::Late:
      return PyExc_TimeoutError;
    case Error::Kind::Missing:
      return PyExc_FileNotFoundError;
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

// Between two looks at whether the user interrupts.
constexpr Seconds kSlice(0.1);

py::object take(Reader& reader, double timeout) {
  const auto began = std::chrono::steady_clock::now();
  while (!reader.ready()) {
    {
      const py::gil_scoped_release released;
      reader.await(kSlice);
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const bool early = std::chrono::steady_clock::now() - began < Seconds(timeout);
    if (!early || reader.writer_ended()) break;
  }
  py::object message;
  reader.take(
      [&](size_t size) {
        message = py::reinterpret_steal<py::object>(
            PyByteArray_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
        if (!message) throw py::error_already_set();
        return reinterpret_cast<uint8_t*>(PyByteArray_AS_STRING(message.ptr()));
      },
      reader.ready() ? Seconds(timeout) : Seconds(0),
      [](const std::function<void()>& wait) {
        const py::gil_scoped_release released;
        wait();
      });
  return message;
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
      .def("connect", &Writer::connect, py::arg("reader"))
      .def("post",
           [](Writer& self, double timeout, const py::args& parts) {
             const Parts bytes(parts);
             const py::gil_scoped_release released;
             self.post(bytes.spans, Seconds(timeout));
           })
      .def(
          "flush", [](Writer& self, double timeout) { return self.flush(Seconds(timeout)); },
          py::call_guard<py::gil_scoped_release>())
      .def("shut", &Writer::shut);

  py::class_<Reader>(module, "RingReader")
      .def(py::init<pid_t, int, uint64_t>(), py::arg("writer"), py::arg("file"), py::arg("secret"))
      .def_property_readonly("ready", &Reader::ready)
      .def("take", &take, py::arg("timeout"))
      .def("shut", &Reader::shut);
}

}  // namespace pipecodec::python
