// A simulated accelerator for tests, torch's device type PrivateUse1: memory that crashes the process if the
// host reads it, and counts of all that goes between host and device. Kernels are PyTorch's own for the CPU,
// run on the device's mapping of that memory. Everything is done at once, so order and time are not
// simulated.
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "memory.h"

namespace {

std::recursive_mutex mutex;
std::map<std::string, int64_t> counts;

void count(const std::string& what, int64_t by = 1) {
  const std::lock_guard lock(mutex);
  counts[what] += by;
}

simdev::Memory& memory() {
  static auto* const made = new simdev::Memory;  // tensors may outlive everything else
  return *made;
}

const at::Device kDevice(at::kPrivateUse1, 0);

struct Allocator final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, kDevice};
    const std::lock_guard lock(mutex);
    count("alloc");
    void* const pointer = memory().allocate(bytes);
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

// Page-locked memory of the host, without which no copy is asynchronous.
struct Pinned final : at::HostAllocator {
  at::DataPtr allocate(size_t bytes) override {
    void* const pointer = std::malloc(bytes == 0 ? 1 : bytes);
    const std::lock_guard lock(mutex);
    known().insert(pointer);
    return {pointer, pointer, &release, at::Device(at::kCPU)};
  }
  static void release(void* pointer) {
    const std::lock_guard lock(mutex);
    known().erase(pointer);
    std::free(pointer);
  }
  static std::set<void*>& known() {
    static auto* const pointers = new std::set<void*>;
    return *pointers;
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool record_event(void*, void*, c10::Stream) override { return true; }
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
    return Pinned::known().contains(const_cast<void*>(pointer));
  }
} hooks;

thread_local c10::StreamId current_stream = 0;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr at::DeviceType static_type = at::kPrivateUse1;
  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, kDevice, id); }
  at::DeviceType type() const override { return static_type; }
  at::Device exchangeDevice(at::Device) const override { return kDevice; }
  at::Device getDevice() const override { return kDevice; }
  void setDevice(at::Device) const override {}
  void uncheckedSetDevice(at::Device) const noexcept override {}
  at::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(at::Device) const override { return stream(current_stream); }
  c10::Stream exchangeStream(c10::Stream other) const override {
    const c10::StreamId before = current_stream;
    current_stream = other.id();
    return stream(before);
  }
  void record(void**, const c10::Stream&, const at::DeviceIndex, const c10::EventFlag) const override {
    count("event record");
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    count("event query");
    return true;
  }
  void destroyEvent(void*, const at::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { count("sync"); }
  void synchronizeEvent(void*) const override { count("sync"); }
  void synchronizeDevice(const at::DeviceIndex) const override { count("sync"); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// What a kernel sees of a tensor: one of the CPU over the same memory.
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
  if (leaves || enters) {
    count(way + " bytes", static_cast<int64_t>(from.nbytes()));
    if (!non_blocking || !hooks.isPinnedPtr((leaves ? to : from).storage().data())) count("sync");
  }
  seen_by_kernel(to).copy_(seen_by_kernel(from));
  return to;
}

at::Scalar item(const at::Tensor& tensor) {
  count("device to host");
  count("device to host bytes", static_cast<int64_t>(tensor.element_size()));
  count("sync");
  return seen_by_kernel(tensor).item();
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat>) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto bytes =
      at::detail::computeStorageNbytesContiguous(sizes, self.element_size(), self.storage_offset());
  at::Storage storage = self.storage();
  if (storage.nbytes() < bytes) {
    at::DataPtr grown = allocator.allocate(bytes);
    if (storage.nbytes() > 0) allocator.copy_data(grown.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(grown));
    storage.set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return self;
}

// Any other operation is a kernel. One whose result's size depends on data waits for it.
void kernel(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  count("kernel");
  if (op.hasTag(at::Tag::data_dependent_output) || op.hasTag(at::Tag::dynamic_output_shape)) {
    count("device to host");
    count("sync");
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> given;
  const auto enter = [&given](const at::Tensor& tensor) {
    at::Tensor inside = seen_by_kernel(tensor);
    if (tensor.defined() && tensor.is_privateuseone()) given.emplace_back(inside, tensor);
    return inside;
  };
  const size_t arguments = op.schema().arguments().size(), returns = op.schema().returns().size();
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
  module.def("peek", [](uintptr_t address) {  // what the host must not do
    return static_cast<int>(*reinterpret_cast<volatile uint8_t*>(address));
  });
}
