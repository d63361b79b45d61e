// Options of how the host runs a grid, for tests to vary, and records of its launches.
#pragma once

#include <cstdint>

#include "csrc/tests/cuda_on_host/cuda_runtime.h"

namespace cuda_on_host {

struct Machine {
  unsigned workers = 1;         // host threads at once
  unsigned order = 0;           // of the grid's threads: 0 ascending, else the seed of a random one
  unsigned surplus_blocks = 0;  // blocks run in addition to those asked for
  unsigned first_block = 0;     // blocks before it are not run

  uint64_t launches = 0;
  cudaStream_t stream = nullptr;  // of the last launch
};

extern Machine machine;

}  // namespace cuda_on_host
