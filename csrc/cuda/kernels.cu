// Includes nothing of torch: it would take a minute to compile for each architecture.
#include "csrc/cuda/kernels.h"

#include <cstring>

namespace {

using pipecodec::device::CopyRegion;

constexpr unsigned kThreads = 256;
constexpr uint64_t kShare = 16384;  // bytes that one block works on

struct alignas(16) Inline {
  uint8_t bytes[kPipecodecInline];
};

struct Table {
  CopyRegion regions[kPipecodecRegions];
  uint32_t ends[kPipecodecRegions];  // one after the last block of each region
  uint32_t count;
};
static_assert(sizeof(Table) <= 4096);
static_assert(sizeof(Inline) + 4 * sizeof(uint64_t) <= 4096);

__device__ uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

template <class Word>
__device__ bool aligned(const uint8_t* a, const uint8_t* b) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) & (sizeof(Word) - 1)) == 0;
}

__device__ bool differ(uint4 a, uint4 b) {
  return ((a.x ^ b.x) | (a.y ^ b.y) | (a.z ^ b.z) | (a.w ^ b.w)) != 0;
}
__device__ bool differ(uint32_t a, uint32_t b) { return a != b; }
__device__ bool differ(uint8_t a, uint8_t b) { return a != b; }

// The words of a region from byte `begin` to byte `end`, every thread its own ones.
template <class Word>
__device__ void write_words(const CopyRegion& region, uint64_t begin, uint64_t end) {
  for (uint64_t at = begin + threadIdx.x * sizeof(Word); at < end; at += kThreads * sizeof(Word)) {
    Word* const to = reinterpret_cast<Word*>(region.to + at);
    if (at + sizeof(Word) <= region.bytes) {
      *to = *reinterpret_cast<const Word*>(region.from + at);
    } else if (at >= region.bytes && at + sizeof(Word) <= end) {
      *to = Word{};
    } else {
      for (uint64_t i = at; i < smaller(at + sizeof(Word), end); ++i) {
        region.to[i] = i < region.bytes ? region.from[i] : 0;
      }
    }
  }
}

__device__ void write_share(const CopyRegion& region, uint64_t block) {
  const uint64_t begin = block * kShare;
  const uint64_t end = smaller(begin + kShare, region.room);
  if (aligned<uint4>(region.from, region.to)) {
    write_words<uint4>(region, begin, end);
  } else if (aligned<uint32_t>(region.from, region.to)) {
    write_words<uint32_t>(region, begin, end);
  } else {
    write_words<uint8_t>(region, begin, end);
  }
}

template <class Word>
__device__ bool words_differ(const uint8_t* a, const uint8_t* b, uint64_t begin, uint64_t end) {
  bool found = false;
  for (uint64_t at = begin + threadIdx.x * sizeof(Word); at < end; at += kThreads * sizeof(Word)) {
    if (at + sizeof(Word) <= end) {
      found |= differ(*reinterpret_cast<const Word*>(a + at), *reinterpret_cast<const Word*>(b + at));
    } else {
      for (uint64_t i = at; i < end; ++i) found |= a[i] != b[i];
    }
  }
  return found;
}

__global__ void __launch_bounds__(kThreads) copy_regions(const Table __grid_constant__ table) {
  uint32_t region = 0, end = table.count;
  while (region < end) {
    const uint32_t middle = (region + end) / 2;
    if (table.ends[middle] <= blockIdx.x) {
      region = middle + 1;
    } else {
      end = middle;
    }
  }
  if (region == table.count) return;
  write_share(table.regions[region], blockIdx.x - (region == 0 ? 0 : table.ends[region - 1]));
}

__global__ void __launch_bounds__(kThreads)
    write_inline(const Inline __grid_constant__ given, uint64_t used, uint8_t* to, uint64_t room) {
  write_share({given.bytes, to, used, room}, blockIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    compare_bytes(const uint8_t* a, const uint8_t* b, uint64_t bytes, uint32_t* mismatch_flag) {
  const uint64_t begin = blockIdx.x * kShare;
  const uint64_t end = smaller(begin + kShare, bytes);
  const bool found = aligned<uint4>(a, b)      ? words_differ<uint4>(a, b, begin, end)
                     : aligned<uint32_t>(a, b) ? words_differ<uint32_t>(a, b, begin, end)
                                               : words_differ<uint8_t>(a, b, begin, end);
  if (found) atomicOr(mismatch_flag, 1u);
}

uint64_t shares(uint64_t bytes) { return (bytes + kShare - 1) / kShare; }

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), uint64_t blocks, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

Inline inlined(const uint8_t* bytes, uint64_t count) {
  Inline made;
  if (count != 0) std::memcpy(made.bytes, bytes, count);
  return made;
}

}  // namespace

cudaError_t pipecodec_copy(const pipecodec::device::CopyRegion* regions, uint64_t count,
                           cudaStream_t stream) {
  Table table;
  table.count = 0;
  uint64_t blocks = 0;
  for (uint64_t i = 0; i < count; ++i) {
    blocks += shares(regions[i].room);
    if (blocks > INT32_MAX) return cudaErrorInvalidValue;
    table.regions[table.count] = regions[i];
    table.ends[table.count++] = static_cast<uint32_t>(blocks);
    if (table.count < kPipecodecRegions && i + 1 < count) continue;
    if (const cudaError_t error = launch(copy_regions, blocks, stream, table)) return error;
    table.count = 0;
    blocks = 0;
  }
  return cudaSuccess;
}

cudaError_t pipecodec_write(const uint8_t* bytes, uint64_t used, uint8_t* to, uint64_t room,
                            cudaStream_t stream) {
  if (used > room) return cudaErrorInvalidValue;
  for (; used > kPipecodecInline; used -= kPipecodecInline, room -= kPipecodecInline) {
    const Inline part = inlined(bytes, kPipecodecInline);
    if (const cudaError_t error =
            launch(write_inline, 1, stream, part, kPipecodecInline, to, kPipecodecInline))
      return error;
    bytes += kPipecodecInline;
    to += kPipecodecInline;
  }
  return launch(write_inline, shares(room), stream, inlined(bytes, used), used, to, room);
}

cudaError_t pipecodec_compare(const uint8_t* expected, const uint8_t* received, uint64_t bytes,
                              uint32_t* mismatch_flag, cudaStream_t stream) {
  return launch(compare_bytes, shares(bytes), stream, expected, received, bytes, mismatch_flag);
}
