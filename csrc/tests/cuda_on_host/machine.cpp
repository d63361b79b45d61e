#include "csrc/tests/cuda_on_host/machine.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace cuda_on_host {

Machine machine;

cudaError_t run(const cudaLaunchConfig_t& config, size_t parameter_bytes, void (*thread)(void*),
                void* context) {
  const unsigned threads = config.blockDim.x;
  // Every driver refuses such a launch.
  if (parameter_bytes > 4096 || config.gridDim.x == 0 || config.gridDim.x > 0x7fffffff || threads == 0 ||
      threads > 1024 || config.dynamicSmemBytes != 0 || config.numAttrs != 0) {
    return cudaErrorInvalidConfiguration;
  }
  ++machine.launches;
  machine.stream = config.stream;
  const unsigned blocks = config.gridDim.x + machine.surplus_blocks;
  std::vector<uint64_t> order(uint64_t{blocks - std::min(blocks, machine.first_block)} * threads);
  std::iota(order.begin(), order.end(), uint64_t{machine.first_block} * threads);
  if (machine.order != 0) std::shuffle(order.begin(), order.end(), std::mt19937(machine.order));

  const auto work = [&](size_t worker) {
    gridDim = dim3(blocks);
    blockDim = config.blockDim;
    for (size_t i = worker; i < order.size(); i += machine.workers) {
      blockIdx = {static_cast<unsigned>(order[i] / threads), 0, 0};
      threadIdx = {static_cast<unsigned>(order[i] % threads), 0, 0};
      thread(context);
    }
  };
  if (machine.workers == 1) {
    work(0);
    return cudaSuccess;
  }
  std::vector<std::thread> workers;
  for (unsigned worker = 0; worker < machine.workers; ++worker) workers.emplace_back(work, worker);
  for (std::thread& worker : workers) worker.join();
  return cudaSuccess;
}

}  // namespace cuda_on_host
