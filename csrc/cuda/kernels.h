// Copies, writes and comparisons of raw bytes on a CUDA device. Every function queues its work on `stream`,
// of the current device, and waits for nothing; all may be captured in a CUDA graph. Pointers need no
// alignment, multiples of 16 are fastest.
#pragma once

#include <cuda_runtime.h>

#include <stdint.h>

#include "csrc/device/copy_region.h"

// Limits of the data in one launch's parameters, of which every driver accepts 4096 bytes.
inline constexpr uint64_t kPipecodecInline = 3584;  // bytes of the host
inline constexpr uint64_t kPipecodecRegions = 112;

extern "C" {

// Writes regions, whose destinations must not overlap. One launch for each kPipecodecRegions.
cudaError_t pipecodec_copy(const pipecodec::device::CopyRegion* regions, uint64_t count, cudaStream_t stream);

// Writes `used` bytes from the host, which may change them as soon as this returns, then zeros: `room` bytes
// at `to` in all. One launch for each kPipecodecInline bytes.
cudaError_t pipecodec_write(const uint8_t* bytes, uint64_t used, uint8_t* to, uint64_t room,
                            cudaStream_t stream);

// Sets the lowest bit of *mismatch_flag where `received` is not `expected`; otherwise leaves it as it is. All
// of them lie on the device.
cudaError_t pipecodec_compare(const uint8_t* expected, const uint8_t* received, uint64_t bytes,
                              uint32_t* mismatch_flag, cudaStream_t stream);
}
