#include "csrc/device/bits.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>

#include <cstring>
#include <optional>

#include "csrc/device/kernels.h"
#include "csrc/device/object.h"
#include "csrc/device/transfer.h"
#include "csrc/frame/strides.h"

namespace pipecodec::device {
namespace {

at::IntArrayRef sizes(std::span<const int64_t> shape) { return {shape.data(), shape.size()}; }

at::Tensor empty(std::span<const int64_t> shape, at::ScalarType dtype, at::Device device) {
  if (device.is_cpu()) {
    return at::detail::empty_cpu(sizes(shape), dtype, std::nullopt, device, std::nullopt, std::nullopt);
  }
  return at::empty(sizes(shape), at::TensorOptions().dtype(dtype).device(device));
}

// A new tensor that has memory for the stored elements only.
at::Tensor empty(const Span& span, at::Device device) {
  if (span.strides.empty()) return empty(span.shape, scalar_type(span.dtype), device);
  const auto element = static_cast<int64_t>(frame::kDTypes[static_cast<uint8_t>(span.dtype)].bytes);
  const int64_t stored[] = {static_cast<int64_t>(span.bytes) / element};
  at::Tensor made = empty(stored, scalar_type(span.dtype), device);
  made.unsafeGetTensorImpl()->set_sizes_and_strides(sizes(span.shape), sizes(span.strides));
  return made;
}

bool lies_in_order(const at::Tensor& tensor) {
  return !tensor.is_conj() && !tensor.is_neg() && tensor.is_contiguous();
}

// The integer dtype of the same size, since torch cannot copy elements of some dtypes.
std::optional<frame::DType> integer_of(frame::DType dtype) {
  switch (frame::kDTypes[static_cast<uint8_t>(dtype)].bytes) {
    case 1:
      return frame::DType::UInt8;
    case 2:
      return frame::DType::Int16;
    case 4:
      return frame::DType::Int32;
    case 8:
      return frame::DType::Int64;
    default:
      return std::nullopt;
  }
}

// Copies a tensor of the buffer's device, whose strides are not the span's, to its place in one pass. Of an
// expanded dimension one element is copied.
void put_in_order(const at::Tensor& buffer, uint64_t place, const at::Tensor& tensor, const Span& span) {
  at::Tensor from = tensor.detach();
  std::vector<int64_t> shape = span.shape;
  for (size_t d = 0; d < span.strides.size(); ++d) {
    if (!frame::is_expanded(shape[d], span.strides[d])) continue;
    from = from.narrow(static_cast<int64_t>(d), 0, 1);
    shape[d] = 1;
  }
  frame::DType dtype = span.dtype;
  if (const auto integer = integer_of(dtype); integer && !from.is_conj() && !from.is_neg()) {
    dtype = *integer;
    from = from.view(scalar_type(dtype));
  }
  over_bytes(buffer, place, dtype, shape, span.strides).copy_(from);
}

// Fills the buffer with the regions `placed`, the tensors' bits from byte `begin` on, and zeros.
void copy_regions(const Kernels& own, const at::Tensor& buffer, std::vector<Placed> placed, uint64_t begin,
                  std::span<const at::Tensor> tensors, std::span<const Span> spans) {
  std::vector<at::Tensor> sources;  // alive until the copies are queued
  for (size_t i = 0; i < spans.size(); ++i) {
    if (spans[i].bytes == 0 || !tensors[i].defined()) continue;
    Placed& leaf = placed.emplace_back(Placed{nullptr, begin + spans[i].place, spans[i].bytes});
    if (tensors[i].device() == buffer.device() && !lies_as(tensors[i], spans[i])) {
      put_in_order(buffer, leaf.place, tensors[i], spans[i]);
    } else {
      sources.push_back(bytes_on(tensors[i], spans[i], buffer.device()));
      leaf.from = static_cast<const uint8_t*>(sources.back().const_data_ptr());
    }
  }
  own.copy(buffer.device(), cover(static_cast<uint8_t*>(buffer.mutable_data_ptr()), buffer.nbytes(), placed));
}

void copy_each(const at::Tensor& buffer, uint64_t begin, std::span<const at::Tensor> tensors,
               std::span<const Span> spans) {
  for (size_t i = 0; i < spans.size(); ++i) {
    if (spans[i].bytes == 0 || !tensors[i].defined()) continue;
    const uint64_t place = begin + spans[i].place;
    if (tensors[i].device() == buffer.device() && !lies_as(tensors[i], spans[i])) {
      put_in_order(buffer, place, tensors[i], spans[i]);
      continue;
    }
    buffer.narrow(0, static_cast<int64_t>(place), static_cast<int64_t>(spans[i].bytes))
        .copy_(bytes_on(tensors[i], spans[i], buffer.device()), /*non_blocking=*/true);
  }
}

// True where zeros have to fill gaps between the tensors' bits.
bool has_gaps(std::span<const at::Tensor> tensors, std::span<const Span> spans, uint64_t bytes) {
  for (size_t i = 0; i < spans.size(); ++i) bytes -= tensors[i].defined() ? spans[i].bytes : 0;
  return bytes != 0;
}

}  // namespace

const char* unsendable(const at::Tensor& tensor) {
  if (tensor.is_nested()) return "is nested; send its parts, or a padded tensor with lengths";
  if (tensor.layout() != at::kStrided) return "is not strided (sparse?); send its indices and values";
  if (tensor.is_quantized()) return "is quantized; send its int_repr(), scale and zero point";
  if (tensor.is_meta()) return "is on the meta device and has no data";
  if (!has_memory(tensor)) {
    return "has no memory of its own (a tensor of a tracer, a transform or a subclass, or with an emptied "
           "storage); send a plain tensor";
  }
  return nullptr;
}

bool has_memory(const at::Tensor& tensor) {
  const c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
  constexpr c10::DispatchKeySet kStandIns(
      {c10::DispatchKey::Python, c10::DispatchKey::Functionalize, c10::DispatchKey::FuncTorchBatched,
       c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Batched});
  if (tensor.is_nested() || tensor.layout() != at::kStrided || tensor.is_meta() ||
      impl->key_set().has_any(kStandIns) || !impl->has_storage()) {
    return false;
  }
  if (tensor.numel() == 0) return true;
  uint64_t last = static_cast<uint64_t>(tensor.storage_offset());
  for (int64_t d = 0; d < tensor.dim(); ++d)
    last += static_cast<uint64_t>((tensor.size(d) - 1) * tensor.stride(d));
  return impl->unsafe_storage().nbytes() >= (last + 1) * tensor.element_size() &&
         impl->unsafe_storage().data() != nullptr;
}

at::Tensor plain(const at::Tensor& tensor) {
  if (lies_in_order(tensor)) return tensor.detach();
  return tensor.detach().resolve_conj().resolve_neg().contiguous();
}

at::Tensor as_bytes(const at::Tensor& plain) {
  const int64_t bytes = static_cast<int64_t>(plain.nbytes());
  at::Tensor made = empty(std::span<const int64_t>(), at::kByte, plain.device());
  return made.set_(plain.storage(), plain.storage_offset() * static_cast<int64_t>(plain.element_size()),
                   {bytes}, {1});
}

bool Span::expanded() const {
  for (size_t d = 0; d < strides.size(); ++d) {
    if (frame::is_expanded(shape[d], strides[d])) return true;
  }
  return false;
}

bool lies_as(const at::Tensor& tensor, const Span& span) {
  if (span.strides.empty()) return lies_in_order(tensor);
  if (tensor.is_conj() || tensor.is_neg()) return false;
  if (span.bytes == 0) return true;
  const at::IntArrayRef strides = tensor.strides();
  for (size_t d = 0; d < span.strides.size(); ++d) {
    if (span.shape[d] != 1 && strides[d] != span.strides[d]) return false;
  }
  return true;
}

at::Tensor bytes_in_place(const at::Tensor& tensor, const Span& span) {
  at::Tensor made = empty(std::span<const int64_t>(), at::kByte, tensor.device());
  return made.set_(tensor.storage(), tensor.storage_offset() * static_cast<int64_t>(tensor.element_size()),
                   {static_cast<int64_t>(span.bytes)}, {1});
}

at::Tensor bytes_alone(const at::Tensor& tensor, const Span& span) {
  const int64_t size[] = {static_cast<int64_t>(span.bytes)};
  const at::Tensor made = empty(size, at::kByte, tensor.device());
  if (span.bytes != 0) put_in_order(made, 0, tensor, span);
  return made;
}

at::Tensor over_bytes(const at::Tensor& bytes, uint64_t place, frame::DType dtype,
                      std::span<const int64_t> shape, std::span<const int64_t> given) {
  const int64_t begin = bytes.storage_offset() + static_cast<int64_t>(place);
  const int64_t element = frame::kDTypes[static_cast<uint8_t>(dtype)].bytes;
  const auto address = reinterpret_cast<uintptr_t>(bytes.const_data_ptr()) + place;
  if (begin % element != 0 || address % static_cast<uintptr_t>(element) != 0) {
    return over_bytes(bytes.clone(), place, dtype, shape, given);
  }
  std::vector<int64_t> strides(given.begin(), given.end());
  if (given.empty()) {
    strides.resize(shape.size());
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= shape[i] == 0 ? 1 : shape[i];
    }
  }
  at::Tensor made = empty(std::span<const int64_t>(), scalar_type(dtype), bytes.device());
  return made.set_(bytes.storage(), begin / element, sizes(shape), strides);
}

at::Tensor gather(std::span<const at::Tensor> tensors, std::span<const Span> spans, uint64_t bytes,
                  at::Device device) {
  const int64_t shape[] = {static_cast<int64_t>(bytes)};
  at::Tensor buffer = empty(shape, at::kByte, device);
  if (device.is_cpu()) {
    auto* const out = static_cast<uint8_t*>(buffer.mutable_data_ptr());
    uint64_t end = 0;
    for (size_t i = 0; i < spans.size(); ++i) {
      const Span& span = spans[i];
      if (span.bytes == 0) continue;
      std::memset(out + end, 0, span.place - end);
      end = span.place + span.bytes;
      const at::Tensor& tensor = tensors[i];
      if (!tensor.defined()) {
        std::memset(out + span.place, 0, span.bytes);
      } else if (!tensor.is_cpu()) {
        std::memcpy(out + span.place, bytes_on(tensor, span, at::kCPU).const_data_ptr(), span.bytes);
      } else if (lies_as(tensor, span)) {
        std::memcpy(out + span.place, tensor.const_data_ptr(), span.bytes);
      } else {
        put_in_order(buffer, span.place, tensor, span);
      }
    }
    std::memset(out + end, 0, bytes - end);
    return buffer;
  }
  if (const Kernels* const own = kernels(device)) {
    copy_regions(*own, buffer, {}, 0, tensors, spans);
  } else {
    if (has_gaps(tensors, spans, bytes)) buffer.zero_();
    copy_each(buffer, 0, tensors, spans);
  }
  return buffer;
}

at::Tensor with_bits(const at::Tensor& bytes, uint64_t begin, std::span<const at::Tensor> tensors,
                     std::span<const Span> spans) {
  const Kernels* const own = kernels(bytes.device());
  if (own == nullptr) {
    at::Tensor made = bytes.clone();
    copy_each(made, begin, tensors, spans);
    return made;
  }
  const int64_t shape[] = {bytes.numel()};
  at::Tensor made = empty(shape, at::kByte, bytes.device());
  copy_regions(*own, made, {{static_cast<const uint8_t*>(bytes.const_data_ptr()), 0, begin}}, begin, tensors,
               spans);
  return made;
}

std::vector<at::Tensor> scatter(const at::Tensor& buffer, std::span<const Span> spans) {
  const at::Tensor bytes = as_bytes(plain(buffer));
  const uint8_t* const from = static_cast<const uint8_t*>(bytes.const_data_ptr());
  const Kernels* const own = kernels(bytes.device());
  std::vector<CopyRegion> regions;
  std::vector<at::Tensor> made;
  made.reserve(spans.size());
  for (const Span& span : spans) {
    at::Tensor fresh = empty(span, bytes.device());
    if (span.bytes != 0) {
      if (bytes.is_cpu()) {
        std::memcpy(fresh.mutable_data_ptr(), from + span.place, span.bytes);
      } else if (own != nullptr) {
        auto* const to = static_cast<uint8_t*>(fresh.mutable_data_ptr());
        regions.push_back({from + span.place, to, span.bytes, span.bytes});
      } else {
        bytes_in_place(fresh, span)
            .copy_(bytes.narrow(0, static_cast<int64_t>(span.place), static_cast<int64_t>(span.bytes)));
      }
    }
    made.push_back(std::move(fresh));
  }
  if (!regions.empty()) own->copy(bytes.device(), regions);
  return made;
}

}  // namespace pipecodec::device
