#include "csrc/device/object.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/autograd/python_variable.h>

#include "csrc/device/bits.h"
#include "csrc/structure/attributes.h"
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

structure::Ref wrap(at::Tensor&& tensor) {
  return structure::Ref::steal(THPVariable_Wrap(std::move(tensor)));
}

size_t count_fitting(PyObject* const* tensors, const frame::Layout& layout) {
  const frame::Leaf* const leaves = layout.leaves.data();
  const int64_t* const shapes = layout.shapes.data();
  const size_t count = layout.leaves.size();
  for (size_t i = 0; i < count; ++i) {
    if (!fits(THPVariable_Unpack(tensors[i]), leaves[i], shapes + leaves[i].shape_at)) return i;
  }
  return count;
}

at::Device parse_device(PyObject* device) {
  const structure::Ref made = THPDevice_Check(device)
                                  ? structure::Ref::borrow(device)
                                  : structure::Ref::steal(PyObject_CallOneArg(
                                        reinterpret_cast<PyObject*>(structure::known().device), device));
  const at::Device parsed = reinterpret_cast<THPDevice*>(made.get())->device;
  // Tensors have an index, and are to be found on the device that was meant.
  if (parsed.is_cpu() || parsed.has_index() || !c10::impl::hasDeviceGuardImpl(parsed.type())) return parsed;
  return c10::impl::getDeviceGuardImpl(parsed.type())->getDevice();
}

}  // namespace device

namespace structure {
namespace {

// Avoids a call for the many tensors that autograd never touched.
bool requires_grad(const at::Tensor& tensor) {
  const c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
  return impl->autograd_meta() != nullptr && impl->requires_grad();
}

// The attributes that Python code gave a tensor, or null. A tensor of a Python class has a dict, made when it
// is first asked for: so it is asked for as rarely as can be, and not by its name.
PyObject* dict_of(PyObject* tensor) {
  PyObject** const at = _PyObject_GetDictPtr(tensor);
  return at == nullptr ? nullptr : *at;
}

}  // namespace

const char* describe_tensor(PyObject* object, TensorInfo& info) {
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (static_cast<int>(tensor.scalar_type()) >= frame::kDTypeCount) {
    return "has a dtype that frames have no code for; send it as another one";
  }
#if __has_include(<ATen/core/NamedTensor.h>)  // before torch 2.13
  if (tensor.has_names()) return "has named dimensions, which would not arrive; send its .rename(None)";
#endif
  const bool nested = tensor.is_nested();
  info = {static_cast<frame::DType>(tensor.scalar_type()), requires_grad(tensor), nested, {}};
  if (!nested) info.shape = tensor.sizes();
  return nullptr;
}

std::span<const int64_t> strides_of(PyObject* object) {
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (tensor.is_nested() || tensor.is_quantized() || tensor.layout() != at::kStrided) return {};
  return tensor.strides();
}

bool is_nested(PyObject* tensor) { return THPVariable_Unpack(tensor).is_nested(); }

bool has_own_memory(PyObject* tensor) { return device::has_memory(THPVariable_Unpack(tensor)); }

std::string extra_attribute(PyObject* tensor) {
  PyObject* const dict = dict_of(tensor);
  if (dict == nullptr) return {};
  std::string found;
  Py_ssize_t position = 0;
  PyObject *name = nullptr, *value = nullptr;
  while (PyDict_Next(dict, &position, &name, &value) != 0) {
    const std::string text = shown(name);
    if (text == "_is_buffer") return {};  // nn.Buffer marks tensors, as nn.Parameter does by a type
    if (!text.starts_with('_')) found = text;
  }
  return found;
}

bool all_are(PyObject* const* tensors, std::span<const TensorInfo> infos) {
  for (size_t i = 0; i < infos.size(); ++i) {
    const at::Tensor& tensor = THPVariable_Unpack(tensors[i]);
    const TensorInfo& info = infos[i];
    if (tensor.is_nested() || static_cast<frame::DType>(tensor.scalar_type()) != info.dtype ||
        !device::has_shape(tensor, info.shape.data(), info.shape.size()) ||
        requires_grad(tensor) != info.requires_grad) {
      return false;
    }
    if (Py_TYPE(tensors[i]) == known().tensor && dict_of(tensors[i]) != nullptr &&
        !extra_attribute(tensors[i]).empty()) {
      return false;
    }
  }
  return true;
}

}  // namespace structure

}  // namespace pipecodec
