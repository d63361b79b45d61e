#include "csrc/codec/verifier.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>

#include "csrc/codec/errors.h"
#include "csrc/codec/mismatch.h"
#include "csrc/device/mismatch_flag.h"

namespace pipecodec::codec {
namespace {

// Limits of the unread frames whose flag was not fetched yet.
constexpr uint64_t kKept = 1024;
constexpr uint64_t kKeptBytes = 1 << 24;  // or two frames, if these are larger

bool is_set(device::Download& fetched) {
  int32_t flag = 0;
  std::memcpy(&flag, fetched.wait().const_data_ptr(), sizeof flag);
  return flag != 0;
}

}  // namespace

// So that no two streams use the expected bytes and the flag at once, and the flag covers all earlier frames.
void Verifier::Expected::join_current_stream() {
  const std::optional<int64_t> current = device::current_stream(on_device.device());
  if (!current || *current == stream) return;
  device::wait_stream(on_device.device(), stream, {on_device, flag});
  stream = *current;
}

std::vector<at::Tensor> Verifier::Expected::take(uint64_t end) {
  std::vector<at::Tensor> taken;
  for (; known < end; ++known) {
    taken.push_back(std::move(unread.front()));
    unread.pop_front();
  }
  if (covered <= known) fetched.reset();
  return taken;
}

bool Verifier::Expected::wait() {
  join_current_stream();
  device::Download now(device::as_bytes(flag));
  const bool wrong = is_set(now);
  written = true;
  return wrong;
}

std::optional<Checked> Verifier::expect(const at::Tensor& frame, const std::string& codec) {
  const bool captured = !device::current_stream(frame.device());
  if (expected_ && !captured) make_room(frame.nbytes(), codec);
  const std::shared_ptr<Expected> expected = expected_;
  if (!expected) return std::nullopt;
  const auto used = static_cast<int64_t>(expected->frame.plan->layout.header.used);
  const at::Tensor& on_device = expected->on_device;
  if (frame.device() != on_device.device() || frame.numel() < used || !frame.is_contiguous()) {
    if (!captured) check(codec);
    return std::nullopt;
  }
  if (captured) {
    if (!expected->written) return std::nullopt;
    keep_for_graph(expected);
  } else {
    expected->join_current_stream();
    expected->unread.push_back(frame);
    ++frames_;
  }
  device::compare(frame, on_device, expected->flag);
  return expected->frame;
}

// Fetches the flag for one half of the frames kept while the other half arrives: the host waits only if the
// device is that many frames behind.
void Verifier::make_room(uint64_t frame_bytes, const std::string& codec) {
  const std::shared_ptr<Expected> expected = expected_;
  const uint64_t most = std::clamp<uint64_t>(kKeptBytes / std::max<uint64_t>(frame_bytes, 1), 2, kKept);
  std::vector<at::Tensor> right;
  if (expected->fetched && expected->unread.size() >= most) {
    device::Download fetched = *std::exchange(expected->fetched, std::nullopt);
    const uint64_t covered = expected->covered;  // another thread may fetch it anew while this waits
    if (is_set(fetched)) refuse(expected, codec);
    right = expected->take(covered);
  }
  if (expected->fetched || expected->unread.size() < most / 2) return;
  expected->join_current_stream();
  expected->fetched.emplace(device::as_bytes(expected->flag));
  expected->covered = expected->end();
}

// A graph uses the expected bytes and the flag in every replay, also after the codec's end, and its own end
// is unknown: so both are kept for ever.
void Verifier::keep_for_graph(const std::shared_ptr<Expected>& expected) {
  static auto* const kept = new std::vector<at::Tensor>;
  if (expected->in_graph) return;
  kept->insert(kept->end(), {expected->on_device, expected->flag});
  in_graphs_.push_back(expected);
  expected->in_graph = true;
}

void Verifier::learn(const at::Tensor& frame, const Checked& read) {
  ++frames_;
  if (expected_ && !expected_->unread.empty()) return;  // another thread's, since this one began to read
  forget();
  const frame::Header& header = read.plan->layout.header;
  const bool payload_covered = header.payload_bytes() > 0 && header.covered() == header.used;
  if (payload_covered || (header.values_bytes > 0 && !static_values_)) return;
  const c10::InferenceMode off(false);  // the tensors made here are written to in any mode
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
  const std::vector<std::shared_ptr<Expected>> in_graphs = in_graphs_;
  const uint64_t end = expected ? expected->end() : frames_;  // others may come while this waits
  const bool asked = expected && (expected->in_graph || !expected->written || !expected->unread.empty());
  if (asked && expected->wait()) refuse(expected, codec);
  checked_ = std::max(checked_, end);
  const std::vector<at::Tensor> right = expected ? expected->take(end) : std::vector<at::Tensor>();
  for (const std::shared_ptr<Expected>& each : in_graphs) {
    if (each != expected && each->wait()) refuse(each, codec);
  }
}

void Verifier::reset(const std::string& codec) {
  try {
    check(codec);
  } catch (...) {
    forget();
    throw;
  }
  forget();
}

void Verifier::refuse(std::shared_ptr<Expected> expected, const std::string& codec) {
  const uint64_t first = expected->known - std::min(expected->known, checked_);
  if (expected == expected_) forget();
  const std::vector<at::Tensor> unread = expected->take(expected->end());
  const bool in_graph = expected->in_graph;
  if (in_graph) expected->flag.zero_();  // one error for each mismatch
  const device::HostFrame& taken_for = expected->frame.bytes;
  const std::string wrong =
      std::string("; values computed from it are wrong. Set read=\"always\"") + kOnAllRanks + ",";
  for (size_t i = 0; i < unread.size(); ++i) {
    const device::HostFrame received = device::read_frame(unread[i]);
    if (std::memcmp(received.data, taken_for.data, taken_for.size) == 0) continue;
    raise(structure::known().structure_changed,
          codec + ": frame " + std::to_string(first + i) +
              " (0-based, since the last check) differs from the frame it was assumed to repeat: " +
              mismatch(expected->frame, received, root) + wrong + " if that may change");
  }
  if (in_graph) {
    raise(structure::known().structure_changed,
          codec +
              ": a frame that a replay of a CUDA graph received since the last check differs from the "
              "frame it was assumed to repeat; which replay is not known" +
              wrong + " and receive outside of graphs if that may change");
  }
  raise(structure::known().frame_error,
        codec +
            ": the device reported a mismatch, but the received frame now equals the expected one: something "
            "wrote into it after it arrived");
}

void Verifier::forget() { const std::shared_ptr<Expected> old = std::move(expected_); }

}  // namespace pipecodec::codec
