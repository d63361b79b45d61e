// A simulated accelerator for tests, torch's device type PrivateUse1: memory that crashes the process if the
// host reads it, and counts of all that goes between host and device. Kernels are PyTorch's own for the CPU,
// run on the device's mapping of that memory. Everything is done at once, unless the streams are delayed:
// then copies and operations into given tensors are done when something waits for them, and any other
// operation when it is called, after the work of its own stream.
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <algorithm>
#include <string>

#include "guard.h"
#include "kernels.h"

namespace {

using namespace simdev;

struct Allocator final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, kDevice};
    const std::lock_guard lock(mutex);
    count("alloc");
    void* const pointer = memory().allocate(bytes, current_stream);
    return {pointer, pointer, &release, kDevice};
  }
  static void release(void* pointer) {
    const std::lock_guard lock(mutex);
    if (pointer != nullptr) memory().release(pointer);
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(memory().on_device(to), memory().on_device(from), bytes);
  }
} allocator;
REGISTER_ALLOCATOR(at::kPrivateUse1, &allocator);

struct Pinned final : at::HostAllocator {
  at::DataPtr allocate(size_t bytes) override {
    const std::lock_guard lock(mutex);
    void* const pointer = pinned_memory().allocate(bytes);
    return {pointer, pointer, &release, at::Device(at::kCPU)};
  }
  static void release(void* pointer) {
    const std::lock_guard lock(mutex);
    pinned_memory().release(pointer);
  }
  bool record_event(void* pointer, void*, c10::Stream stream) override {
    const std::lock_guard lock(mutex);
    pinned_memory().record(pointer, stream.id());
    return true;
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
} pinned;
REGISTER_HOST_ALLOCATOR(at::kPrivateUse1, &pinned);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::DeviceIndex deviceCount() const override { return 1; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  bool isPinnedPtr(const void* pointer) const override {
    const std::lock_guard lock(mutex);
    return pinned_memory().holds(const_cast<void*>(pointer));
  }
} hooks;

using simdev::Guard;
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// The tensor for a kernel: one of the CPU over the same memory.
at::Tensor seen_by_kernel(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_privateuseone()) return tensor;
  void* const storage = tensor.storage().mutable_data();
  uint8_t* const begin = storage == nullptr ? nullptr : memory().on_device(storage);
  return at::from_blob(begin + tensor.storage_offset() * tensor.element_size(), tensor.sizes(),
                       tensor.strides(), tensor.options().device(at::kCPU));
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const bool leaves = !to.is_privateuseone(), enters = !from.is_privateuseone();
  const std::string way = leaves ? "device to host" : enters ? "host to device" : "kernel";
  count(way);
  void* const host = leaves || enters ? (leaves ? to : from).storage().mutable_data() : nullptr;
  const bool waits = (leaves || enters) && !(non_blocking && hooks.isPinnedPtr(host));
  if (leaves || enters) count(way + " bytes", static_cast<int64_t>(from.nbytes()));
  // Does not own the tensors' memory, which may have been given to another user by then.
  const auto borrowed = [](const at::Tensor& tensor) {
    if (tensor.is_privateuseone()) return seen_by_kernel(tensor);
    return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options());
  };
  const auto copy = [to = borrowed(to), from = waits ? seen_by_kernel(from) : borrowed(from), host, waits] {
    if (host != nullptr && !waits && !hooks.isPinnedPtr(host)) count("given back too early");
    to.copy_(from);
  };
  streams().queue(current_stream, copy);
  if (waits) {
    count("sync");
    streams().run(current_stream);
  }
  return to;
}

at::Scalar item(const at::Tensor& tensor) {
  count("device to host");
  count("device to host bytes", static_cast<int64_t>(tensor.element_size()));
  count("sync");
  streams().run(current_stream);
  return seen_by_kernel(tensor).item();
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat>) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto bytes =
      at::detail::computeStorageNbytesContiguous(sizes, self.element_size(), self.storage_offset());
  at::Storage storage = self.storage();
  if (storage.nbytes() < bytes) {
    streams().run(current_stream);
    at::DataPtr grown = allocator.allocate(bytes);
    if (storage.nbytes() > 0) allocator.copy_data(grown.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(grown));
    storage.set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return self;
}

// The index of the argument that the operation writes to, if it returns that one and no other.
std::optional<size_t> written(const c10::FunctionSchema& schema) {
  const auto is_written = [](const c10::Argument& of) {
    return of.alias_info() != nullptr && of.alias_info()->isWrite();
  };
  const std::vector<c10::Argument>& given = schema.arguments();
  const auto found = std::find_if(given.begin(), given.end(), is_written);
  if (found == given.end() || schema.returns().size() != 1 || !is_written(schema.returns()[0])) return {};
  return static_cast<size_t>(found - given.begin());
}

// Runs any other operation as a kernel. If the result's size depends on data, the host waits.
void kernel(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  count("kernel");
  if (op.hasTag(at::Tag::data_dependent_output) || op.hasTag(at::Tag::dynamic_output_shape)) {
    count("device to host");
    count("sync");
  }
  const size_t arguments = op.schema().arguments().size(), returns = op.schema().returns().size();
  const std::optional<size_t> place = written(op.schema());
  const at::Tensor result = place ? (*stack)[stack->size() - arguments + *place].toTensor() : at::Tensor();
  std::vector<std::pair<at::Tensor, at::Tensor>> given;
  const auto enter = [&given](const at::Tensor& tensor) {
    at::Tensor inside = seen_by_kernel(tensor);
    if (tensor.defined() && tensor.is_privateuseone()) given.emplace_back(inside, tensor);
    return inside;
  };
  for (size_t i = stack->size() - arguments; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = enter(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (size_t k = 0; k < value.toTensorList().size(); ++k)
        list.push_back(enter(value.toTensorList().get(k)));
      value = list;
    } else if (value.isDevice() && value.toDevice().is_privateuseone()) {
      value = at::Device(at::kCPU);
    }
  }
  if (place) {
    torch::jit::Stack own(stack->end() - static_cast<std::ptrdiff_t>(arguments), stack->end());
    torch::jit::drop(*stack, arguments);
    torch::jit::push(*stack, result);
    return streams().queue(current_stream, [op, own]() mutable {
      op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &own);
    });
  }
  streams().run(current_stream);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (size_t i = stack->size() - returns; i < stack->size(); ++i) {
    if (!(*stack)[i].isTensor() || !(*stack)[i].toTensor().defined()) continue;
    const at::Tensor made = (*stack)[i].toTensor();
    at::Tensor result;
    for (const auto& [inside, outside] : given) {
      if (inside.is_same(made)) result = outside;
    }
    if (!result.defined()) {
      result = at::empty_strided(made.sizes(), made.strides(), made.options().device(kDevice));
      seen_by_kernel(result).copy_(made);
    }
    (*stack)[i] = result;
  }
}

at::Tensor& set_storage(at::Tensor& self, at::Storage storage, int64_t offset, at::IntArrayRef size,
                        at::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&kernel>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_local_scalar_dense", &item);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("as_strided", [](const at::Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride,
                                std::optional<int64_t> offset) {
    return at::native::as_strided_tensorimpl(tensor, size, stride, offset);
  });
  library.impl("view",
               [](const at::Tensor& tensor, at::IntArrayRef size) { return at::native::view(tensor, size); });
  library.impl("_reshape_alias", [](const at::Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride) {
    return at::native::_reshape_alias(tensor, size, stride);
  });
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  at::RegisterPrivateUse1HooksInterface(&hooks);
  module.def("counts", [] { return counts; });
  module.def("reset", [] { counts.clear(); });
  module.def("set_stream", [](int64_t id) { return std::exchange(current_stream, id); });
  module.def("set_delayed", [](bool on) { streams().set_delayed(on); });
  module.def("set_capturing", [](bool on) { streams().set_recording(capturing = on); });
  module.def("replay", [] { streams().replay(current_stream); });
  module.def("set_kernels", &set_kernels);
  module.def("hold", [] { set_ending(Ending::WhenLetGo); });
  module.def("let_go", [] { set_ending(Ending::Soon); });
  module.def("fail", [] { set_ending(Ending::Error); });
  module.def("peek", [](uintptr_t address) {  // a read that the host must not do
    return static_cast<int>(*reinterpret_cast<volatile uint8_t*>(address));
  });
}
