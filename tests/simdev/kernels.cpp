// Compiles the kernels' own source for the host, and runs it on the device's mapping of its memory.
#include "kernels.h"

#include <stdexcept>
#include <vector>

#include "csrc/cuda/kernels.cu"
#include "csrc/device/kernels.h"
#include "csrc/tests/cuda_on_host/machine.h"
#include "guard.h"

namespace simdev {
namespace {

using pipecodec::device::Kernels;

// Queues a call that launches kernels on the host's threads, and counts its launches.
template <class Launch>
void queue(Launch launch) {
  streams().queue(current_stream, [launch] {
    const uint64_t before = cuda_on_host::machine.launches;
    if (launch() != cudaSuccess) throw std::runtime_error("simdev: a launch was refused");
    count("launch", static_cast<int64_t>(cuda_on_host::machine.launches - before));
  });
}

void copy(at::Device, std::span<const CopyRegion> given) {
  std::vector<CopyRegion> regions(given.begin(), given.end());
  for (CopyRegion& region : regions) {
    if (region.bytes != 0) region.from = memory().on_device(region.from);
    if (region.room != 0) region.to = memory().on_device(region.to);
  }
  queue([regions] { return pipecodec_copy(regions.data(), regions.size(), nullptr); });
}

void write(at::Device, std::span<const uint8_t> bytes, uint8_t* to, uint64_t room) {
  queue([own = std::vector<uint8_t>(bytes.begin(), bytes.end()), to = memory().on_device(to), room] {
    return pipecodec_write(own.data(), own.size(), to, room, nullptr);
  });
}

void compare(at::Device, const uint8_t* expected, const uint8_t* received, uint64_t bytes,
             uint32_t* mismatch_flag) {
  auto* const word = reinterpret_cast<uint32_t*>(memory().on_device(mismatch_flag));
  queue([expected = memory().on_device(expected), received = memory().on_device(received), bytes, word] {
    return pipecodec_compare(expected, received, bytes, word, nullptr);
  });
}

bool is_capturing() { return capturing; }

constexpr Kernels kKernels = {copy, write, compare, is_capturing, kPipecodecInline};

}  // namespace

void set_kernels(bool on) {
  pipecodec::device::own_kernels[static_cast<size_t>(kDevice.type())] = on ? &kKernels : nullptr;
}

}  // namespace simdev
