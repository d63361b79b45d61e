#include "csrc/codec/verifier.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>

#include "csrc/codec/errors.h"
#include "csrc/codec/mismatch.h"
#include "csrc/device/verdict.h"

namespace pipecodec::codec {
namespace {

bool is_set(const at::Tensor& verdict) { return *verdict.const_data_ptr<int32_t>() != 0; }

bool is_set(device::Download& outcome) {
  int32_t verdict = 0;
  std::memcpy(&verdict, outcome.wait().const_data_ptr(), sizeof verdict);
  return verdict != 0;
}

}  // namespace

// So that streams do not use the two at once, and one verdict is about all frames before it.
void Verifier::Expected::join_current_stream() {
  const std::optional<int64_t> current = device::current_stream(on_device.device());
  if (!current || *current == stream) return;
  device::come_after(on_device.device(), stream, {on_device, verdict});
  stream = *current;
}

std::vector<at::Tensor> Verifier::Expected::take(uint64_t end) {
  std::vector<at::Tensor> taken;
  for (; known < end; ++known) {
    taken.push_back(std::move(unread.front()));
    unread.pop_front();
  }
  return taken;
}

bool Verifier::Expected::wait() {
  if (verdict.is_cpu()) return is_set(verdict);
  join_current_stream();
  device::Download all(device::as_bytes(verdict));
  return is_set(all);
}

std::optional<Checked> Verifier::expect(const at::Tensor& frame, const std::string& codec) {
  if (!device::current_stream(frame.device())) return std::nullopt;
  if (expected_) poll(codec);
  const std::shared_ptr<Expected> expected = expected_;
  if (!expected) return std::nullopt;
  const auto used = static_cast<int64_t>(expected->frame.plan->layout.header.used);
  const at::Tensor& on_device = expected->on_device;
  if (frame.device() != on_device.device() || frame.numel() < used || !frame.is_contiguous()) {
    check(codec);
    return std::nullopt;
  }
  expected->join_current_stream();
  device::compare(frame.narrow(0, 0, on_device.numel()), on_device, expected->verdict);
  expected->unread.push_back(frame);
  ++frames_;
  if (!expected->outcome && !frame.is_cpu()) {
    expected->outcome.emplace(device::as_bytes(expected->verdict));
    expected->covered = expected->end();
  }
  return expected->frame;
}

// Looks at what is known of the outcome by now.
void Verifier::poll(const std::string& codec) {
  const std::shared_ptr<Expected> expected = expected_;
  if (expected->verdict.is_cpu()) {
    expected->covered = expected->end();
  } else if (!expected->outcome || !expected->outcome->done()) {
    return;
  }
  if (expected->outcome ? is_set(*expected->outcome) : is_set(expected->verdict)) refuse(expected, codec);
  expected->outcome.reset();
  const std::vector<at::Tensor> right = expected->take(expected->covered);
}

void Verifier::learn(const at::Tensor& frame, const Checked& read) {
  ++frames_;
  if (expected_ && !expected_->unread.empty()) return;  // another thread's, since this one began to read
  forget();
  const frame::Header& header = read.plan->layout.header;
  const bool payload_covered = header.payload_bytes() > 0 && header.covered() == header.used;
  if (payload_covered || (header.values_bytes > 0 && !static_values_)) return;
  const c10::InferenceMode off(false);  // what is made here is written to in any mode
  const auto bytes = static_cast<int64_t>(header.payload_begin());
  const at::Tensor on_device = frame.narrow(0, 0, bytes).clone();
  const at::Tensor host = frame.is_cpu() ? on_device : read.bytes.copy;
  const device::HostFrame on_host{host, static_cast<const uint8_t*>(host.const_data_ptr()),
                                  static_cast<size_t>(bytes)};
  expected_ = std::make_shared<Expected>(Expected{{on_host, read.plan},
                                                  on_device,
                                                  at::zeros({1}, on_device.options().dtype(at::kInt)),
                                                  device::current_stream(frame.device()).value(),
                                                  frames_});
}

void Verifier::check(const std::string& codec) {
  const std::shared_ptr<Expected> expected = expected_;
  const uint64_t end = expected ? expected->end() : frames_;  // others may come while this waits
  if (expected && !expected->unread.empty() && expected->wait()) refuse(expected, codec);
  checked_ = std::max(checked_, end);
  const std::vector<at::Tensor> right = expected ? expected->take(end) : std::vector<at::Tensor>();
}

void Verifier::refuse(std::shared_ptr<Expected> expected, const std::string& codec) {
  const uint64_t first = expected->known - std::min(expected->known, checked_);
  const std::vector<at::Tensor> unread = expected->take(expected->end());
  const device::HostFrame& taken_for = expected->frame.bytes;
  if (expected == expected_) forget();
  for (size_t i = 0; i < unread.size(); ++i) {
    const device::HostFrame received = device::read_frame(unread[i]);
    if (std::memcmp(received.data, taken_for.data, taken_for.size) == 0) continue;
    raise(structure::known().structure_changed, codec + ": frame " + std::to_string(first + i) +
                                                    " since the last check (counted from 0) is not what it "
                                                    "was taken for, unread: " +
                                                    mismatch(expected->frame, received, root) +
                                                    "; what was computed from it is wrong. Give the "
                                                    "boundary's codec read=\"always\" if that may change");
  }
  raise(structure::known().frame_error,
        codec + ": a frame was not what it was taken for when it arrived, and is now: it was written into");
}

void Verifier::forget() { const std::shared_ptr<Expected> old = std::move(expected_); }

}  // namespace pipecodec::codec
