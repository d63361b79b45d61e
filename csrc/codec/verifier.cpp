#include "csrc/codec/verifier.h"

#include <ATen/ops/zeros.h>

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

// Waits, and lets other Python threads run meanwhile.
bool wait_for(const at::Tensor& verdict) {
  if (verdict.is_cpu()) return is_set(verdict);
  device::Download outcome(device::as_bytes(verdict));
  PyThreadState* const thread = PyEval_SaveThread();
  outcome.wait();
  PyEval_RestoreThread(thread);
  return is_set(outcome);
}

}  // namespace

std::optional<Checked> Verifier::expect(const at::Tensor& frame, const std::string& codec) {
  if (!expected_) return std::nullopt;
  if (frame.device() != on_device_.device() || frame.numel() < on_device_.numel() || !frame.is_contiguous()) {
    check(codec);
    return std::nullopt;
  }
  poll(codec);
  unread_.push_back(frame);
  device::compare(frame.narrow(0, 0, on_device_.numel()), on_device_, verdict_);
  if (!outcome_ && !verdict_.is_cpu()) {
    outcome_.emplace(device::as_bytes(verdict_));
    covered_ = unread_.size();
  }
  return expected_;
}

// Looks at what is known of the outcome by now.
void Verifier::poll(const std::string& codec) {
  if (verdict_.is_cpu()) {
    covered_ = unread_.size();
  } else if (!outcome_ || !outcome_->done()) {
    return;
  }
  if (outcome_ ? is_set(*outcome_) : is_set(verdict_)) refuse(codec);
  unread_.erase(unread_.begin(), unread_.begin() + static_cast<std::ptrdiff_t>(covered_));
  known_ += covered_;
  outcome_.reset();
}

void Verifier::learn(const at::Tensor& frame, const Checked& read) {
  const frame::Header& header = read.plan->layout.header;
  const bool payload_covered = header.payload_bytes() > 0 && header.covered() == header.used;
  if (payload_covered || (header.values_bytes > 0 && !static_values_)) return forget();
  const auto bytes = static_cast<int64_t>(header.payload_begin());
  on_device_ = frame.narrow(0, 0, bytes).clone();
  verdict_ = at::zeros({1}, on_device_.options().dtype(at::kInt));
  const at::Tensor host = frame.is_cpu() ? on_device_ : read.bytes.copy;
  expected_ = Checked{{host, static_cast<const uint8_t*>(host.const_data_ptr()), static_cast<size_t>(bytes)},
                      read.plan};
}

void Verifier::check(const std::string& codec) {
  if (unread_.empty()) {
    known_ = 0;
    return;
  }
  if (wait_for(verdict_)) refuse(codec);
  unread_.clear();
  outcome_.reset();
  known_ = 0;
}

void Verifier::refuse(const std::string& codec) {
  const Checked expected = *std::move(expected_);
  const std::deque<at::Tensor> unread = std::move(unread_);
  const size_t known = known_;
  forget();
  for (size_t i = 0; i < unread.size(); ++i) {
    const device::HostFrame received = device::read_frame(unread[i]);
    if (std::memcmp(received.data, expected.bytes.data, expected.bytes.size) == 0) continue;
    raise(structure::known().structure_changed, codec + ": frame " + std::to_string(known + i) +
                                                    " since the last check (counted from 0) is not what it "
                                                    "was taken for, unread: " +
                                                    mismatch(expected, received) +
                                                    "; what was computed from it is wrong. Give the "
                                                    "boundary's codec read=\"always\" if that may change");
  }
  raise(structure::known().frame_error,
        codec + ": a frame was not what it was taken for when it arrived, and is now: it was written into");
}

void Verifier::forget() {
  expected_.reset();
  on_device_.reset();
  verdict_.reset();
  unread_.clear();
  outcome_.reset();
  known_ = covered_ = 0;
}

}  // namespace pipecodec::codec
