// The Python module pipecodec._C: it registers, and decides nothing.
#include <pybind11/pybind11.h>

#include "csrc/codec/errors.h"
#include "csrc/codec/nodes.h"
#include "csrc/codec/routes.h"
#include "csrc/codec/tunnel.h"
#include "csrc/codec/unpacker.h"
#include "csrc/device/kernels.h"
#include "csrc/device/mismatch_flag.h"
#include "csrc/device/object.h"
#include "csrc/frame/error.h"
#include "csrc/frame/internal.h"
#include "csrc/frame/outline.h"
#include "csrc/python/codec_type.h"
#include "csrc/python/ring_types.h"
#include "csrc/structure/attributes.h"
#include "csrc/structure/known.h"
#include "csrc/structure/registered.h"

namespace py = pybind11;
using namespace pipecodec;

namespace {

// Runs `body`, which gives a Ref, for pybind11.
template <class Body>
py::object call(const char* where, Body body) {
  PyObject* const made = codec::guarded(where, body);
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

const at::Tensor& tensor(const py::object& object) {
  if (!device::is_tensor(object.ptr())) codec::raise(PyExc_TypeError, "this takes tensors");
  return device::unwrap(object.ptr());
}

template <class Read>
std::unique_ptr<codec::ReceivedFrame> opened(const std::string& name, const py::object& tensors, Read read) {
  std::unique_ptr<codec::ReceivedFrame> made;
  call(name.c_str(), [&] {
    made = std::make_unique<codec::ReceivedFrame>(tensors.ptr());
    read(*made);
    return structure::Ref::borrow(Py_None);
  });
  return made;
}

// A row of frame::outline as Python values: (depth, path, label, type name, text, children, leaf or None),
// where a leaf is (dtype, shape, route, requires_grad, bytes, strides or None).
py::list rows(const codec::ReceivedFrame& opened) {
  static constexpr const char* kRoutes[] = {"slot", "raw slot", "tunnel", "frame"};
  py::list made;
  const frame::Layout& layout = opened.layout();
  for (const frame::Row& row : opened.rows()) {
    py::object leaf = py::none();
    if (row.leaf >= 0) {
      const frame::Leaf& of = layout.leaves[static_cast<size_t>(row.leaf)];
      const auto numbers = [](std::span<const int64_t> given) {
        py::list made;
        for (const int64_t number : given) made.append(number);
        return py::tuple(made);
      };
      const std::vector<int64_t> strides = opened.strides(of);
      const bool whole = of.route == frame::Route::Slot || of.route == frame::Route::Tunnel;
      leaf = py::make_tuple(frame::kDTypes[static_cast<uint8_t>(of.dtype)].name,
                            of.nested ? py::object(py::none()) : numbers(layout.shape(of)),
                            kRoutes[static_cast<uint8_t>(of.route)], of.requires_grad,
                            whole ? of.room() : of.bytes(),
                            strides.empty() ? py::object(py::none()) : numbers(strides));
    }
    made.append(py::make_tuple(row.depth, row.path, row.label,
                               frame::kTypeNames[static_cast<uint8_t>(row.code)], row.text, row.children,
                               leaf));
  }
  return made;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  call("pipecodec", [&] {
    structure::load_known();
    python::add_to_module(m.ptr());
    return structure::Ref::borrow(Py_None);
  });

  python::add_rings(m);

  py::class_<codec::Tunnel>(m, "Tunnel")
      .def("unused",
           [](const codec::Tunnel& self, const py::object& gradient) {
             py::list indices;
             for (const size_t index : self.unused(tensor(gradient))) indices.append(index);
             return indices;
           })
      .def("__len__", &codec::Tunnel::leaves);

  py::class_<codec::ReceivedFrame>(m, "ReceivedFrame")
      .def(py::init([](const py::object& tensors) {
        return opened("describe", tensors,
                      [](codec::ReceivedFrame& arrived) { arrived.read(nullptr, codec::Compile::No); });
      }))
      .def_property_readonly(
          "structure", [](const codec::ReceivedFrame& self) { return self.layout().header.structure_hash; })
      .def_property_readonly("used",
                             [](const codec::ReceivedFrame& self) { return self.layout().header.used; })
      .def("rows", &rows);

  m.def("register", [](const py::object& type, const py::object& flatten, const py::object& unflatten,
                       const py::str& name) {
    call("register", [&] {
      structure::register_type(type.ptr(), flatten.ptr(), unflatten.ptr(), name.ptr());
      return structure::Ref::borrow(Py_None);
    });
  });
  m.def("compare",
        [](const py::object& received, const py::object& expected, const py::object& mismatch_flag) {
          call("compare", [&] {
            device::compare(tensor(received), tensor(expected), tensor(mismatch_flag));
            return structure::Ref::borrow(Py_None);
          });
        });
  m.def("use_count", [](const py::object& of) {
    size_t count = 0;
    call("use_count", [&] {
      count = tensor(of).storage().use_count();
      return structure::Ref::borrow(Py_None);
    });
    return count;
  });
  m.def("leave_out", [](const py::object& sent, const py::object& leaves) {
    call("leave_out", [&] {
      codec::leave_out(tensor(sent), structure::indices_of(leaves.ptr()));
      return structure::Ref::borrow(Py_None);
    });
  });
  m.def("entered_with_gradients",
        [](const py::object& sent) { return codec::entered_with_gradients(tensor(sent)); });
  m.def("join", [](const py::object& of, const py::object& token) {
    return call("join", [&] { return device::wrap(codec::join(tensor(of), tensor(token))); });
  });
  m.def("in_backward", &codec::in_backward);

  py::dict codes;
  for (uint8_t code = 0; code < frame::kTypeCodeCount; ++code) codes[frame::kTypeNames[code]] = code;
  m.attr("TYPE_CODES") = codes;
  py::list reasons;
  for (const char* const reason : frame::kReasonNames) reasons.append(reason);
  m.attr("FRAME_ERROR_REASONS") = py::tuple(reasons);
  m.attr("FORMAT_VERSION") = frame::kVersion;
  m.attr("EXIT") = codec::kExit;
  m.attr("SMALL_LEAF") = codec::kSmallLeaf;
  m.attr("DEBUG") = frame::kDebug;
  m.attr("WITH_CUDA") = device::kernels(at::kCUDA) != nullptr;
}
