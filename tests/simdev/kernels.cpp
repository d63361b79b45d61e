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

void copy(at::Device, std::span<const Piece> given) {
  std::vector<Piece> pieces(given.begin(), given.end());
  for (Piece& piece : pieces) {
    if (piece.bytes != 0) piece.from = memory().on_device(piece.from);
    if (piece.room != 0) piece.to = memory().on_device(piece.to);
  }
  queue([pieces] { return pipecodec_copy(pieces.data(), pieces.size(), nullptr); });
}

void write(at::Device, std::span<const uint8_t> bytes, uint8_t* to, uint64_t room) {
  queue([own = std::vector<uint8_t>(bytes.begin(), bytes.end()), to = memory().on_device(to), room] {
    return pipecodec_write(own.data(), own.size(), to, room, nullptr);
  });
}

void compare(at::Device, const uint8_t* expected, const uint8_t* received, uint64_t bytes,
             uint32_t* verdict) {
  auto* const word = reinterpret_cast<uint32_t*>(memory().on_device(verdict));
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
