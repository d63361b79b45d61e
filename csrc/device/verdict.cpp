#include "csrc/device/verdict.h"

#include <c10/util/Exception.h>

#include <cstring>

#include "csrc/device/kernels.h"
#include "csrc/device/transfer.h"

namespace pipecodec::device {
namespace {

const uint8_t* data(const at::Tensor& bytes) { return static_cast<const uint8_t*>(bytes.const_data_ptr()); }

uint32_t* word(const at::Tensor& verdict) { return static_cast<uint32_t*>(verdict.mutable_data_ptr()); }

void check(const at::Tensor& received, size_t expected, const at::Tensor& verdict) {
  TORCH_CHECK(received.nbytes() == expected && received.scalar_type() == at::kByte &&
                  received.is_contiguous() && verdict.scalar_type() == at::kInt && verdict.numel() == 1 &&
                  verdict.device() == received.device(),
              "what is compared must be as many bytes, and the verdict one int32 beside them");
}

}  // namespace

void compare(const at::Tensor& received, std::span<const uint8_t> expected, const at::Tensor& verdict) {
  check(received, expected.size(), verdict);
  if (received.is_cpu()) {
    if (!expected.empty() && std::memcmp(data(received), expected.data(), expected.size()) != 0) {
      *word(verdict) |= 1;
    }
  } else if (const Kernels* const own = kernels(received.device())) {
    own->compare(received.device(), expected, data(received), word(verdict));
  } else {
    compare(received, upload(expected, expected.size(), received.device()), verdict);
  }
}

void compare(const at::Tensor& received, const at::Tensor& expected, const at::Tensor& verdict) {
  if (expected.is_cpu()) return compare(received, {data(expected), expected.nbytes()}, verdict);
  check(received, expected.nbytes(), verdict);
  if (const Kernels* const own = kernels(received.device())) {
    own->compare_memory(received.device(), data(expected), data(received), expected.nbytes(), word(verdict));
  } else {
    verdict.bitwise_or_(received.ne(expected).any());
  }
}

}  // namespace pipecodec::device
