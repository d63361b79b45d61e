// Pieces fill a buffer except the bytes that are there already, and no two write to the same byte.
#include "csrc/device/copy_region.h"

#include <vector>

#include "csrc/tests/check.h"

using namespace pipecodec::device;

namespace {

void check(const std::vector<Placed>& placed, uint64_t bytes) {
  std::vector<uint8_t> buffer(bytes);
  const std::vector<CopyRegion> regions = cover(buffer.data(), bytes, placed);
  std::vector<int> writers(bytes, 0);
  for (const CopyRegion& region : regions) {
    CHECK(region.bytes <= region.room);
    for (uint64_t i = 0; i < region.room; ++i)
      ++writers[static_cast<uint64_t>(region.to - buffer.data()) + i];
  }
  for (const Placed& each : placed) {
    if (each.from == nullptr) {
      for (uint64_t i = 0; i < each.bytes; ++i) ++writers[each.place + i];
    }
  }
  for (const int count : writers) CHECK(count == 1);
  CHECK(regions.size() == placed.size() + 1);
  for (size_t i = 0; i < placed.size(); ++i) {
    if (placed[i].from == nullptr) continue;
    CHECK(regions[i + 1].from == placed[i].from);
    CHECK(regions[i + 1].to == buffer.data() + placed[i].place);
    CHECK(regions[i + 1].bytes == placed[i].bytes);
  }
}

}  // namespace

int main() {
  const uint8_t source[64] = {};
  check({}, 16);
  check({{source, 0, 16}}, 16);
  check({{source, 0, 3}}, 16);
  check({{source, 32, 5}}, 48);  // zeros before it
  check({{source, 0, 3}, {source, 16, 16}, {source, 32, 1}}, 48);
  check({{source, 0, 3}, {source + 9, 4096, 16}}, 5000);  // and where a gradient is missing
  check({{nullptr, 0, 3}, {source, 16, 16}, {nullptr, 32, 5}, {nullptr, 48, 16}}, 64);  // there already
}
