#include "csrc/device/object.h"

#include <torch/csrc/Device.h>
#include <torch/csrc/autograd/python_variable.h>

#include "csrc/structure/known.h"
#include "csrc/structure/tensor.h"

namespace pipecodec {

namespace device {
namespace {

// The frame's dtype codes are torch's, so converting is a cast.
static_assert(static_cast<int>(c10::ScalarType::Byte) == static_cast<int>(frame::DType::UInt8));
static_assert(static_cast<int>(c10::ScalarType::ComplexDouble) == static_cast<int>(frame::DType::Complex128));
static_assert(static_cast<int>(c10::ScalarType::Bool) == static_cast<int>(frame::DType::Bool));
static_assert(static_cast<int>(c10::ScalarType::BFloat16) == static_cast<int>(frame::DType::BFloat16));
static_assert(static_cast<int>(c10::ScalarType::UInt64) == static_cast<int>(frame::DType::UInt64));
static_assert(static_cast<int>(c10::ScalarType::Float4_e2m1fn_x2) ==
              static_cast<int>(frame::DType::Float4E2M1FNx2));

}  // namespace

bool is_tensor(PyObject* object) { return PyType_IsSubtype(Py_TYPE(object), structure::known().tensor) != 0; }

const at::Tensor& unwrap(PyObject* object) { return THPVariable_Unpack(object); }

structure::Ref wrap(at::Tensor&& tensor) { return structure::Ref::take(THPVariable_Wrap(std::move(tensor))); }

at::Device parse_device(PyObject* device) {
  if (THPDevice_Check(device)) return reinterpret_cast<THPDevice*>(device)->device;
  const structure::Ref made = structure::Ref::take(
      PyObject_CallOneArg(reinterpret_cast<PyObject*>(structure::known().device), device));
  return reinterpret_cast<THPDevice*>(made.get())->device;
}

}  // namespace device

namespace structure {

TensorInfo describe_tensor(PyObject* object) {
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!tensor.defined() || tensor.is_nested()) {
    PyErr_SetString(
        known().unsupported_type,
        "a nested tensor has no fixed shape to describe; send its parts, or a padded tensor with lengths");
    throw PythonError();
  }
  return {static_cast<frame::DType>(tensor.scalar_type()), tensor.requires_grad(), tensor.sizes()};
}

}  // namespace structure

}  // namespace pipecodec
