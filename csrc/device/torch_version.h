// How the versions of torch differ for this project, from 2.8 on; for autograd that is in node_ptr.h.
#pragma once

#include <c10/core/Stream.h>
#include <torch/version.h>

#include "csrc/device/kernels.h"

#define PIPECODEC_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) || (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

namespace pipecodec::device {

// True while the work of the stream, the device's current one, is captured into a graph. Before 2.12 torch
// could tell that for CUDA only.
inline bool is_capturing(const c10::Stream& stream) {
#if PIPECODEC_TORCH_AT_LEAST(2, 12)
  return stream.is_capturing();
#else
  const Kernels* const own = kernels(stream.device());
  return own != nullptr && own->capturing();
#endif
}

}  // namespace pipecodec::device
