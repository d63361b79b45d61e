#include "csrc/codec/tunnel.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "csrc/device/object.h"

namespace pipecodec::codec {

namespace {

// Marks an unused leaf in the tail of a gradient. A gradient made by hand, of zeros or of ones, has no such
// byte.
constexpr uint8_t kUnused = 0xA5;

// Marks the gradient of an unused single leaf: its first bytes, with zeros behind them. They were drawn at
// random, so no gradient has them by chance (1 in 2^128), and as float32 they are finite numbers: anomaly
// mode, which looks for NaN, accepts them.
constexpr uint8_t kMark[16] = {0x6d, 0x1f, 0x93, 0x4a, 0xc8, 0x27, 0xb5, 0x3e,
                               0x92, 0xe4, 0x0d, 0xd1, 0x5b, 0x76, 0xaf, 0x2c};

void check(const at::Tensor& buffer, uint64_t bytes) {
  if (device::has_memory(buffer) && buffer.scalar_type() == at::kFloat && buffer.nbytes() >= bytes) return;
  throw std::invalid_argument(
      "the tunnel must be float32 of at least " + std::to_string(bytes / 4) +
      " elements, with memory of its own; this one is " + c10::toString(buffer.scalar_type()) +
      (buffer.is_nested() ? std::string(", nested") : " with " + std::to_string(buffer.numel())));
}

// True where Tunnel::mark_unused() was called with this gradient, or with the one that it is a copy of.
bool marked(const at::Tensor& gradient) {
  if (!gradient.is_contiguous()) return false;
  const auto* const bytes = static_cast<const uint8_t*>(gradient.const_data_ptr());
  return std::memcmp(bytes, kMark, sizeof(kMark)) == 0 &&
         std::all_of(bytes + sizeof(kMark), bytes + gradient.nbytes(),
                     [](uint8_t byte) { return byte == 0; });
}

}  // namespace

uint64_t tunnel_size(const std::vector<device::Span>& spans, uint64_t bytes) {
  if (spans.size() == 1 && spans[0].bytes == bytes && bytes != 0) return bytes;
  return std::max<uint64_t>(bytes + frame::round_up(spans.size(), frame::kAlignment), frame::kAlignment);
}

Tunnel::Tunnel(std::vector<device::Span> spans, uint64_t bytes)
    : spans_(std::make_shared<const std::vector<device::Span>>(std::move(spans))),
      gradient_spans_(spans_),
      bytes_(bytes),
      size_(tunnel_size(*spans_, bytes)) {
  if (std::none_of(spans_->begin(), spans_->end(),
                   [](const device::Span& span) { return span.expanded(); })) {
    return;
  }
  std::vector<device::Span> whole(*spans_);
  for (device::Span& span : whole) {
    if (!span.expanded()) continue;
    span.strides.clear();
    span.bytes = frame::kDTypes[static_cast<uint8_t>(span.dtype)].bytes;
    for (const int64_t dim : span.shape) span.bytes *= static_cast<uint64_t>(dim);
  }
  gradient_spans_ = std::make_shared<const std::vector<device::Span>>(std::move(whole));
}

// True where the tensor, leaf or tunnel, has exactly the tunnel's bytes: no padding, so that the tunnel has
// the same size whether it is a copy or not.
bool Tunnel::single(const at::Tensor& tensor) const {
  return spans_->size() == 1 && spans_->front().bytes == size_ && tensor.nbytes() == size_;
}

at::Tensor Tunnel::gather(std::span<const at::Tensor> leaves, at::Device where, bool reuse) const {
  const std::vector<device::Span>& spans = *spans_;
  const bool view = reuse && spans.size() == 1 && leaves[0].defined() && leaves[0].device() == where &&
                    single(leaves[0]) && device::lies_as(leaves[0], spans[0]);
  const at::Tensor made =
      view ? device::bytes_in_place(leaves[0], spans[0]) : device::gather(leaves, spans, size_, where);
  if (has_tail() && where.is_cpu()) {
    auto* const tail = static_cast<uint8_t*>(made.mutable_data_ptr()) + bytes_;
    for (size_t i = 0; i < leaves.size(); ++i) tail[i] = leaves[i].defined() ? 0 : kUnused;
  }
  const int64_t shape[] = {made.numel() / 4};
  return device::over_bytes(made, 0, frame::DType::Float32, shape);
}

void Tunnel::mark_unused(const at::Tensor& gradient) const {
  std::memcpy(gradient.mutable_data_ptr(), kMark, sizeof(kMark));
}

std::vector<size_t> Tunnel::unused(const at::Tensor& gradient) const {
  check(gradient, size_);
  if (leaves() == 0) return {};
  if (!has_tail()) return marked(gradient) ? std::vector<size_t>{0} : std::vector<size_t>();
  const at::Tensor bytes = device::as_bytes(device::plain(gradient));
  const uint8_t* const tail = static_cast<const uint8_t*>(bytes.const_data_ptr()) + bytes_;
  std::vector<size_t> found;
  for (size_t i = 0; i < spans_->size(); ++i) {
    if (tail[i] == kUnused) found.push_back(i);
  }
  return found;
}

std::vector<at::Tensor> Tunnel::scatter(const at::Tensor& buffer, bool reuse) const {
  check(buffer, bytes_);
  if (!reuse || !single(buffer)) return device::scatter(buffer, *spans_);
  const device::Span& span = spans_->front();
  return {
      device::over_bytes(device::as_bytes(device::plain(buffer)), 0, span.dtype, span.shape, span.strides)};
}

}  // namespace pipecodec::codec
