// The kernels' own source, run by the host's threads: all alignments, sizes and numbers of regions. Its one
// argument is the number of threads at once. Compiled with a sanitizer, every buffer ends where its bytes
// end.
#include "csrc/cuda/kernels.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "csrc/tests/check.h"
#include "csrc/tests/cuda_on_host/machine.h"

using cuda_on_host::machine;
using pipecodec::device::CopyRegion;

namespace {

constexpr uint8_t kUntouched = 0xA5;
const cudaStream_t kStream = reinterpret_cast<cudaStream_t>(0x1230);

std::mt19937 random_bits(20);

uint64_t below(uint64_t bound) { return random_bits() % bound; }

// `size` bytes, `misaligned` bytes behind a multiple of 256; the memory ends with them.
class Buffer {
 public:
  explicit Buffer(uint64_t size, uint64_t misaligned = 0) : size_(size), misaligned_(misaligned) {
    void* memory = nullptr;
    CHECK(posix_memalign(&memory, 256, misaligned + size) == 0);
    memory_.reset(static_cast<uint8_t*>(memory));
    std::memset(memory, kUntouched, misaligned + size);
  }
  static Buffer random(uint64_t size, uint64_t misaligned = 0) {
    Buffer made(size, misaligned);
    for (uint64_t i = 0; i < size; ++i) made.data()[i] = static_cast<uint8_t>(random_bits());
    return made;
  }

  uint8_t* data() const { return memory_.get() + misaligned_; }
  uint64_t size() const { return size_; }
  bool untouched(uint64_t from, uint64_t to) const {
    for (uint64_t i = from; i < to; ++i) {
      if (data()[i] != kUntouched) return false;
    }
    return true;
  }
  bool untouched_before() const {
    for (uint64_t i = 0; i < misaligned_; ++i) {
      if (memory_[i] != kUntouched) return false;
    }
    return true;
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t[], Free> memory_;
  uint64_t size_, misaligned_;
};

// True where `to` holds the bytes, then zeros to its end, and nothing before it was written.
bool holds(const Buffer& to, const uint8_t* bytes, uint64_t count) {
  if (count != 0 && std::memcmp(to.data(), bytes, count) != 0) return false;
  for (uint64_t i = count; i < to.size(); ++i) {
    if (to.data()[i] != 0) return false;
  }
  return to.untouched_before();
}

void what_the_host_has_is_written() {
  for (const uint64_t used : {0, 1, 15, 16, 17, 255, 3583, 3584, 3585, 7168, 9001}) {
    for (const uint64_t more : {0, 1, 3, 16, 240, 40000}) {
      for (const uint64_t misaligned : {0, 1, 4, 8}) {
        const Buffer bytes = Buffer::random(used);
        const Buffer to(used + more, misaligned);
        const uint64_t before = machine.launches;
        CHECK(pipecodec_write(bytes.data(), used, to.data(), to.size(), kStream) == cudaSuccess);
        CHECK(holds(to, bytes.data(), used));
        const uint64_t parts = (used + kPipecodecInline - 1) / kPipecodecInline;
        CHECK(machine.launches - before == std::max<uint64_t>(parts, to.size() != 0));
        CHECK(to.size() == 0 || machine.stream == kStream);
      }
    }
  }
  CHECK(pipecodec_write(nullptr, 2, nullptr, 1, kStream) == cudaErrorInvalidValue);
}

struct Pieces {
  std::vector<Buffer> from, to;
  std::vector<CopyRegion> regions;

  void add(uint64_t bytes, uint64_t room, uint64_t from_misaligned, uint64_t to_misaligned) {
    from.push_back(Buffer::random(bytes, from_misaligned));
    to.emplace_back(room, to_misaligned);
    regions.push_back({bytes == 0 ? nullptr : from.back().data(), to.back().data(), bytes, room});
  }
  void copy() const {
    const uint64_t before = machine.launches;
    CHECK(pipecodec_copy(regions.data(), regions.size(), kStream) == cudaSuccess);
    CHECK(machine.launches - before <= (regions.size() + kPipecodecRegions - 1) / kPipecodecRegions);
    for (size_t i = 0; i < regions.size(); ++i) CHECK(holds(to[i], from[i].data(), regions[i].bytes));
  }
};

void pieces_of_any_alignment_are_copied() {
  for (const uint64_t bytes : {0, 1, 3, 4, 5, 15, 16, 17, 31, 33, 100}) {
    Pieces all;
    for (uint64_t i = 0; i < 16; ++i) {
      for (uint64_t j = 0; j < 16; ++j) all.add(bytes, bytes + (i + j) % 18, i, j);
    }
    all.copy();
  }
}

void any_number_of_pieces_is_copied() {
  for (const size_t count : {0, 1, 2, 111, 112, 113, 224, 225, 500}) {
    Pieces all;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t bytes = below(3) == 0 ? 0 : below(300);
      all.add(bytes, bytes + (below(2) == 0 ? 0 : below(40)), below(2) * below(16), below(2) * below(16));
    }
    all.copy();
  }
  Pieces empty;
  for (size_t i = 0; i < 2 * kPipecodecRegions; ++i) empty.add(0, 0, 0, 0);
  empty.copy();
}

void pieces_of_many_blocks_are_copied() {
  for (const uint64_t misaligned : {0, 2, 4, 7}) {
    Pieces all;
    for (const uint64_t bytes : {16383, 16384, 16385, 0, 49152, 50001}) {
      all.add(bytes, bytes + 13, misaligned, misaligned);
      all.add(bytes, bytes, 0, misaligned);
    }
    all.add(0, 40000, 0, misaligned);
    all.copy();
  }
}

void pieces_side_by_side_are_gathered() {
  std::vector<Buffer> from;
  std::vector<CopyRegion> regions;
  uint64_t end = 0;
  for (size_t i = 0; i < 60; ++i) {
    from.push_back(Buffer::random(1 + below(i % 20 == 0 ? 40000 : 100), i % 3));
    end += (from.back().size() + 15) / 16 * 16;
  }
  const Buffer to(end);
  end = 0;
  for (const Buffer& each : from) {
    const uint64_t room = (each.size() + 15) / 16 * 16;
    regions.push_back({each.data(), to.data() + end, each.size(), room});
    end += room;
  }
  CHECK(pipecodec_copy(regions.data(), regions.size(), kStream) == cudaSuccess);
  for (size_t i = 0; i < from.size(); ++i) {
    CHECK(std::memcmp(regions[i].to, from[i].data(), from[i].size()) == 0);
    for (uint64_t j = regions[i].bytes; j < regions[i].room; ++j) CHECK(regions[i].to[j] == 0);
  }
}

uint32_t verdict_on(const Buffer& expected, const Buffer& received, uint64_t bytes, uint32_t mismatch_flag) {
  CHECK(pipecodec_compare(expected.data(), received.data(), bytes, &mismatch_flag, kStream) == cudaSuccess);
  return mismatch_flag;
}

// Every place in a small buffer, some in a large one or where each launch starts threads; always the ends.
std::vector<uint64_t> places_in(uint64_t size) {
  const uint64_t most = machine.workers == 1 ? 64 : 2;
  std::vector<uint64_t> places;
  for (uint64_t i = 0; i < size; i += size <= most ? 1 : size / most) places.push_back(i);
  if (places.back() != size - 1) places.push_back(size - 1);
  return places;
}

void one_differing_bit_is_seen() {
  for (const uint64_t size : {1, 3, 4, 15, 16, 17, 33, 64, 260, 3584, 3586, 40000}) {
    for (const uint64_t misaligned : {0, 1, 4}) {
      const Buffer expected = Buffer::random(size, misaligned), received(size + 1, misaligned);
      std::memcpy(received.data(), expected.data(), size);
      CHECK(verdict_on(expected, received, size, 0) == 0);
      CHECK(verdict_on(expected, received, size, 1) == 1);  // never cleared
      CHECK(verdict_on(expected, received, size, 6) == 6);
      for (const uint64_t i : places_in(size)) {
        received.data()[i] ^= static_cast<uint8_t>(1 << below(8));
        CHECK(verdict_on(expected, received, size, 6) == 7);
        CHECK(verdict_on(expected, received, i, 0) == 0);  // it is outside
        received.data()[i] = expected.data()[i];
      }
    }
  }
  CHECK(verdict_on(Buffer(0), Buffer(0), 0, 0) == 0);
}

void many_differing_bytes_are_seen() {
  const Buffer expected = Buffer::random(40000), received(40000);
  CHECK(verdict_on(expected, received, expected.size(), 0) == 1);
}

// The last blocks of tensors that no 32-bit number measures. Their memory is there where it is touched.
void sizes_have_64_bits() {
  constexpr uint64_t kSize = (uint64_t{5} << 30) + 3, kTail = 20000;
  const auto map = [&] {
    void* const memory =
        mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    return static_cast<uint8_t*>(memory);
  };
  uint8_t* const from = map();
  uint8_t* const to = map();
  const uint64_t begin = kSize - kTail;
  for (uint64_t i = begin; i < kSize; ++i) from[i] = static_cast<uint8_t>(random_bits() | 1);
  machine.first_block = static_cast<unsigned>(begin / 16384);
  const CopyRegion region{from, to, kSize, kSize};
  CHECK(pipecodec_copy(&region, 1, kStream) == cudaSuccess);
  CHECK(std::memcmp(from + begin, to + begin, kTail) == 0);
  uint32_t mismatch_flag = 0;
  CHECK(pipecodec_compare(from, to, kSize, &mismatch_flag, kStream) == cudaSuccess && mismatch_flag == 0);
  to[kSize - 1] ^= 4;
  CHECK(pipecodec_compare(from, to, kSize, &mismatch_flag, kStream) == cudaSuccess && mismatch_flag == 1);
  machine.first_block = 0;
  munmap(from, kSize);
  munmap(to, kSize);
}

void what_the_kernels_do_is_right() {
  what_the_host_has_is_written();
  pieces_of_any_alignment_are_copied();
  any_number_of_pieces_is_copied();
  pieces_of_many_blocks_are_copied();
  pieces_side_by_side_are_gathered();
  one_differing_bit_is_seen();
  many_differing_bytes_are_seen();
  sizes_have_64_bits();
}

}  // namespace

int main(int count, char** arguments) {
  machine.workers = count > 1 ? static_cast<unsigned>(std::atoi(arguments[1])) : 1;
  what_the_kernels_do_is_right();
  machine.surplus_blocks = 3;
  machine.order = 1;
  // Starting threads takes long, and in their own order those with neighbouring bytes run at once.
  if (machine.workers == 1) what_the_kernels_do_is_right();
  std::printf("%llu launches\n", static_cast<unsigned long long>(machine.launches));
}
