// What the codec lets a CUDA device do with raw bytes. Every function queues its work on `stream` of the
// current device and waits for nothing; all of them may be captured in a CUDA graph. Pointers need no
// alignment, multiples of 16 are fastest.
#pragma once

#include <cuda_runtime.h>

#include <stdint.h>

extern "C" {

// `bytes` bytes from `from`, then zeros: `room` bytes at `to` in all. Both lie on the device, and do not
// overlap.
struct PipecodecPiece {
  const uint8_t* from;
  uint8_t* to;
  uint64_t bytes;
  uint64_t room;
};

// Writes pieces, of which no two may overlap in what they write. One launch for each kPipecodecPieces of
// them.
cudaError_t pipecodec_copy(const PipecodecPiece* pieces, uint64_t count, cudaStream_t stream);

// Writes `used` bytes from the host, which may change them as soon as this returns, then zeros: `room` bytes
// at `to` in all. One launch for each kPipecodecInline bytes.
cudaError_t pipecodec_write(const uint8_t* bytes, uint64_t used, uint8_t* to, uint64_t room,
                            cudaStream_t stream);

// Sets the lowest bit of *verdict where `received` is not `expected`; otherwise leaves it as it is.
// `expected` lies on the host, to be changed as soon as this returns, or on the device. `verdict` lies on the
// device.
cudaError_t pipecodec_compare(const uint8_t* expected, const uint8_t* received, uint64_t bytes,
                              uint32_t* verdict, cudaStream_t stream);
cudaError_t pipecodec_compare_memory(const uint8_t* expected, const uint8_t* received, uint64_t bytes,
                                     uint32_t* verdict, cudaStream_t stream);
}

// What one launch takes with it in its parameters, of which every driver lets through 4096 bytes.
inline constexpr uint64_t kPipecodecInline = 3584;
inline constexpr uint64_t kPipecodecPieces = 112;
