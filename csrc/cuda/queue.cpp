// Joins the kernels to torch: the tensors' device, its current stream, and errors as exceptions.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/cuda/kernels.h"
#include "csrc/device/kernels.h"

namespace pipecodec::device {
namespace {

void copy(at::Device device, std::span<const CopyRegion> regions) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(pipecodec_copy(regions.data(), regions.size(), c10::cuda::getCurrentCUDAStream()));
}

void write(at::Device device, std::span<const uint8_t> bytes, uint8_t* to, uint64_t room) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(pipecodec_write(bytes.data(), bytes.size(), to, room, c10::cuda::getCurrentCUDAStream()));
}

void compare(at::Device device, const uint8_t* expected, const uint8_t* received, uint64_t bytes,
             uint32_t* mismatch_flag) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(
      pipecodec_compare(expected, received, bytes, mismatch_flag, c10::cuda::getCurrentCUDAStream()));
}

bool capturing() {
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

const Kernels kKernels = {copy, write, compare, capturing, kPipecodecInline};
[[maybe_unused]] const Kernels* const entered = own_kernels[static_cast<size_t>(at::kCUDA)] = &kKernels;

}  // namespace

}  // namespace pipecodec::device
