// How the host runs a grid, for tests to vary, and what it has seen.
#pragma once

#include <cstdint>

#include "csrc/tests/cuda_on_host/cuda_runtime.h"

namespace cuda_on_host {

struct Machine {
  unsigned workers = 1;         // of the host's threads, at once
  unsigned order = 0;           // of the grid's threads: 0 for theirs, else the seed of a random one
  unsigned surplus_blocks = 0;  // that are run beside those asked for
  unsigned first_block = 0;     // those before it are left out

  uint64_t launches = 0;
  cudaStream_t stream = nullptr;  // of the last launch
};

extern Machine machine;

}  // namespace cuda_on_host
