#include "csrc/device/mismatch_flag.h"

#include <cstring>
#include <stdexcept>

#include "csrc/device/kernels.h"

namespace pipecodec::device {
namespace {

const uint8_t* data(const at::Tensor& bytes) { return static_cast<const uint8_t*>(bytes.const_data_ptr()); }

uint32_t* word(const at::Tensor& mismatch_flag) {
  return static_cast<uint32_t*>(mismatch_flag.mutable_data_ptr());
}

bool are_bytes(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kByte && tensor.is_contiguous();
}

}  // namespace

void compare(const at::Tensor& received, const at::Tensor& expected, const at::Tensor& mismatch_flag) {
  if (!are_bytes(received) || !are_bytes(expected) || received.numel() < expected.numel() ||
      received.device() != expected.device() || mismatch_flag.scalar_type() != at::kInt ||
      mismatch_flag.numel() != 1 || mismatch_flag.device() != received.device()) {
    throw std::invalid_argument(
        "the received bytes must be at least as many as those expected, and the mismatch flag one int32 on "
        "their "
        "device");
  }
  const size_t bytes = expected.nbytes();
  if (received.is_cpu()) {
    if (bytes != 0 && std::memcmp(data(received), data(expected), bytes) != 0) *word(mismatch_flag) |= 1;
  } else if (const Kernels* const own = kernels(received.device())) {
    own->compare(received.device(), data(expected), data(received), bytes, word(mismatch_flag));
  } else {
    mismatch_flag.bitwise_or_(received.flatten().narrow(0, 0, expected.numel()).ne(expected.flatten()).any());
  }
}

}  // namespace pipecodec::device
