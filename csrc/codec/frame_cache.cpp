#include "csrc/codec/frame_cache.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>

#include "csrc/device/frame_tensor.h"
#include "csrc/device/object.h"
#include "csrc/device/transfer.h"
#include "csrc/frame/internal.h"
#include "csrc/frame/layout.h"

namespace pipecodec::codec {
namespace {

using structure::Ref;

uint32_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? 0 : static_cast<uint32_t>(tensor._version());
}

bool same(const frame::Writer& a, const std::vector<uint8_t>& b, size_t begin, size_t end) {
  return std::memcmp(a.data() + begin, b.data() + begin, end - begin) == 0;
}

// Whether a reader takes it. Where a device gathers the payload, the rest of it is not here.
bool can_be_read(const frame::Header& header, const std::vector<uint8_t>& bytes) {
  if (header.used != bytes.size()) return true;
  try {
    return frame::parse(bytes.data(), bytes.size()).leaves.size() == header.leaves;
  } catch (const frame::Error&) {
    return false;
  }
}

}  // namespace

bool CachedFrame::same_structure(const frame::Writer& bytes, const frame::Header& header) const {
  return header.structure_bytes == header_.structure_bytes && header.shapes_bytes == header_.shapes_bytes &&
         header.values_bytes == header_.values_bytes && header.leaves == header_.leaves &&
         bytes.size() == bytes_.size() && same(bytes, bytes_, frame::kHeaderBytes, header.shapes_end());
}

bool CachedFrame::reusable(at::Device device, size_t capacity) const {
  if (!frame_) return false;
  const at::Tensor& tensor = device::unwrap(frame_.get());
  return tensor.device() == device && static_cast<size_t>(tensor.numel()) == capacity &&
         version_of(tensor) == version_ && device::current_stream(device) == stream_ &&
         (!tensor.is_inference() || c10::InferenceMode::is_enabled());
}

bool CachedFrame::holds(const frame::Writer& bytes, at::Device device, size_t capacity) const {
  return reusable(device, capacity) && bytes.size() == bytes_.size() &&
         same(bytes, bytes_, frame::kHeaderBytes, bytes.size());
}

bool CachedFrame::holds(const std::vector<uint8_t>& values, const std::vector<uint8_t>& payload,
                        at::Device device, size_t capacity) const {
  return reusable(device, capacity) &&
         std::equal(values.begin(), values.end(), bytes_.data() + header_.values_begin()) &&
         std::equal(payload.begin(), payload.end(), bytes_.data() + header_.payload_begin());
}

Ref CachedFrame::renew(const frame::Writer& bytes, const frame::Header& header, at::Device device,
                       size_t capacity) {
  const Ref old = std::move(frame_);
  header_ = header;
  bytes_.assign(bytes.data(), bytes.data() + bytes.size());
  return make(device, capacity);
}

Ref CachedFrame::renew(const std::vector<uint8_t>& values, const std::vector<uint8_t>& payload,
                       at::Device device, size_t capacity) {
  PIPECODEC_CHECK(values.size() == header_.values_bytes);
  const Ref old = std::move(frame_);
  std::copy(values.begin(), values.end(), bytes_.data() + header_.values_begin());
  std::copy(payload.begin(), payload.end(), bytes_.data() + header_.payload_begin());
  return make(device, capacity);
}

Ref CachedFrame::make(at::Device device, size_t capacity) {
  frame::seal(header_, bytes_.data());
  PIPECODEC_DEBUG_CHECK(can_be_read(header_, bytes_));
  const uint64_t make = ++makes_;
  const std::optional<int64_t> stream = device::current_stream(device);
  Ref made = device::wrap(device::make_frame(bytes_, capacity, device));
  // Making an object may have run code that packed another value with this codec.
  if (make == makes_ && stream) {
    stream_ = *stream;
    version_ = version_of(device::unwrap(made.get()));
    frame_ = Ref::borrow(made.get());
  }
  return made;
}

std::shared_ptr<CachedFrame> FrameCache::find(const frame::Writer& bytes, const frame::Header& header) {
  for (size_t i = 0; i < known_.size(); ++i) {
    if (!known_[i]->same_structure(bytes, header)) continue;
    return use(i);
  }
  return nullptr;
}

std::shared_ptr<CachedFrame> FrameCache::add(const frame::Header& header) {
  std::shared_ptr<CachedFrame> last;
  if (known_.size() == kKept) {
    last = std::move(known_.back());
    known_.pop_back();
  }
  std::shared_ptr<CachedFrame> added = std::make_shared<CachedFrame>(header);
  known_.insert(known_.begin(), added);
  return added;
}

void FrameCache::forget_plans() {
  for (const std::shared_ptr<CachedFrame>& each : known_) {
    each->plan.reset();
    each->planned = false;
  }
}

const std::shared_ptr<CachedFrame>& FrameCache::use(size_t index) {
  const auto found = known_.begin() + static_cast<std::ptrdiff_t>(index);
  std::rotate(known_.begin(), found, found + 1);
  return known_.front();
}

}  // namespace pipecodec::codec
