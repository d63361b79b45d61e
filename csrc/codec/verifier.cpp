#include "csrc/codec/verifier.h"

#include <ATen/ops/zeros.h>

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
  if (expected_) poll(codec);
  if (!expected_) return std::nullopt;
  if (frame.device() != on_device_.device() || frame.numel() < on_device_.numel() || !frame.is_contiguous()) {
    check(codec);
    return std::nullopt;
  }
  unread_.push_back(frame);
  ++count_;
  device::compare(frame.narrow(0, 0, on_device_.numel()), on_device_, verdict_);
  if (!outcome_ && !verdict_.is_cpu()) {
    outcome_.emplace(device::as_bytes(verdict_));
    covered_ = count_;
  }
  return expected_;
}

// Looks at what is known of the outcome by now.
void Verifier::poll(const std::string& codec) {
  if (verdict_.is_cpu()) {
    covered_ = count_;
  } else if (!outcome_ || !outcome_->done()) {
    return;
  }
  if (outcome_ ? is_set(*outcome_) : is_set(verdict_)) refuse(codec);
  outcome_.reset();
  const std::vector<at::Tensor> right = take_until(covered_);
}

std::vector<at::Tensor> Verifier::take_until(size_t end) {
  std::vector<at::Tensor> taken;
  while (count_ - unread_.size() < end) {
    taken.push_back(std::move(unread_.front()));
    unread_.pop_front();
  }
  return taken;
}

void Verifier::learn(const at::Tensor& frame, const Checked& read) {
  if (expected_) return;  // of a thread that came meanwhile
  ++count_;
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
  const size_t end = count_;  // others may come while this waits
  if (!unread_.empty() && wait_for(verdict_) && expected_) refuse(codec);
  checked_ = std::max(checked_, end);
  const std::vector<at::Tensor> right = take_until(end);
}

void Verifier::refuse(const std::string& codec) {
  const Checked expected = *std::move(expected_);
  const size_t first = count_ - unread_.size() - checked_;
  const std::vector<at::Tensor> unread = take_until(count_);
  forget();
  for (size_t i = 0; i < unread.size(); ++i) {
    const device::HostFrame received = device::read_frame(unread[i]);
    if (std::memcmp(received.data, expected.bytes.data, expected.bytes.size) == 0) continue;
    raise(structure::known().structure_changed, codec + ": frame " + std::to_string(first + i) +
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
  outcome_.reset();
  const std::vector<at::Tensor> unread = take_until(count_);
}

}  // namespace pipecodec::codec
