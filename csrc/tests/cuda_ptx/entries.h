// The functions that tests/cuda/ptx.py generates from nvcc's PTX, one for each kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "csrc/tests/cuda_on_host/cuda_runtime.h"

struct Parameter {
  size_t at;
  size_t bytes;
};

struct Entry {
  const char* name;
  void (*thread)(const uint8_t* parameters);  // one thread of the grid
  std::vector<Parameter> parameters;
  size_t bytes;
};

extern const std::vector<Entry> entries;
