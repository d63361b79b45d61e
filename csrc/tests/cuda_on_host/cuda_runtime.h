// Replaces CUDA's header of this name by the part that the kernels need, so that a host compiler builds them
// and its sanitizers test them. A launch runs every thread of the grid before it returns. Not for kernels
// whose threads wait for one another.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#define __global__
#define __device__
#define __grid_constant__ &  // not 4 KB for each thread
#define __launch_bounds__(threads)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1) : x(x), y(1), z(1) {}
};
// Copied through references, whose alignment UBSan checks with every compiler.
struct alignas(16) uint4 {
  unsigned x, y, z, w;
  uint4(unsigned x = 0, unsigned y = 0, unsigned z = 0, unsigned w = 0) : x(x), y(y), z(z), w(w) {}
  uint4(const uint4& other) : uint4(other.x, other.y, other.z, other.w) {}
  uint4& operator=(const uint4& other) {
    x = other.x, y = other.y, z = other.z, w = other.w;
    return *this;
  }
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

inline unsigned atomicOr(unsigned* word, unsigned bits) {
  return __atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
}

namespace cuda_on_host {

// Runs `thread(context)` for every thread of the grid; threadIdx and the others say which one it is.
cudaError_t run(const cudaLaunchConfig_t& config, size_t parameter_bytes, void (*thread)(void*),
                void* context);

}  // namespace cuda_on_host

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  size_t bytes = 0;
  ((bytes =
        (bytes + alignof(Parameters) - 1) / alignof(Parameters) * alignof(Parameters) + sizeof(Parameters)),
   ...);
  auto call = [&] { kernel(static_cast<const Parameters&>(arguments)...); };
  return cuda_on_host::run(
      *config, bytes, [](void* context) { (*static_cast<decltype(call)*>(context))(); }, &call);
}
