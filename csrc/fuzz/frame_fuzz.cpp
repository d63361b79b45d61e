// Reads any bytes as a frame, and checks that they are refused with a reason or that all facts about the
// frame are true.
#include "csrc/fuzz/frame_fuzz.h"

#include <algorithm>
#include <string>

#include "csrc/frame/layout.h"
#include "csrc/frame/outline.h"
#include "csrc/tests/build.h"
#include "csrc/tests/check.h"

using namespace pipecodec::frame;

namespace {

bool understood(const uint8_t* data, size_t size) {
  try {
    parse(data, size);
    return true;
  } catch (const Error& error) {
    CHECK(error.offset <= size);
    CHECK(std::string(error.what()).size() < 256);
    return false;
  }
}

bool is_utf8(const std::string& text) {
  Writer writer;
  writer.u8(static_cast<uint8_t>(TypeCode::Str));
  writer.text(text);
  const std::vector<uint8_t> frame =
      testing::build(testing::only({writer.data(), writer.data() + writer.size()}));
  return understood(frame.data(), frame.size());
}

void check_sections(const Header& header, const uint8_t* data, size_t size) {
  CHECK(header.structure_begin() < header.structure_end());
  CHECK(header.values_end() <= header.payload_begin());
  CHECK(header.payload_begin() <= header.used && header.used <= size);
  CHECK(std::all_of(data + header.used, data + size, [](uint8_t byte) { return byte == 0; }));
}

// Checks that no element lies behind the stored bytes, and that each of these belongs to an element.
void check_strides(const Layout& layout, const Leaf& leaf) {
  if (!leaf.strided) {
    CHECK(leaf.stored == leaf.elements);
    return;
  }
  CHECK(leaf.route != Route::Slot);
  const auto shape = layout.shape(leaf), strides = layout.strides(leaf);
  uint64_t last = 0, distinct = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 0 || strides[i] == 0) continue;
    last += static_cast<uint64_t>(shape[i] - 1) * static_cast<uint64_t>(strides[i]);
    distinct *= static_cast<uint64_t>(shape[i]);
  }
  CHECK(leaf.elements == 0 ? leaf.stored == 0 : leaf.stored == distinct && last + 1 == distinct);
}

// Checks the leaves in the tunnel, the slots and the payload: in order, without overlap, and with the totals
// of the header.
void check_leaves(const Layout& layout) {
  CHECK(layout.leaves.size() == layout.header.leaves);
  uint64_t slots = 0, tunnel = 0, payload = 0;
  size_t dims = 0;
  for (const Leaf& leaf : layout.leaves) {
    CHECK(leaf.shape_at == dims);
    dims += leaf.dims * (leaf.strided ? 2 : 1);
    uint64_t elements = 1;
    for (const int64_t dim : layout.shape(leaf)) {
      CHECK(dim >= 0);
      elements *= static_cast<uint64_t>(dim);
    }
    if (leaf.nested) CHECK(leaf.dims == 0 && leaf.route == Route::Slot);
    CHECK(leaf.elements == (leaf.nested ? 0 : elements));
    check_strides(layout, leaf);
    CHECK(leaf.bytes() < uint64_t{1} << 63);
    uint64_t* const end = leaf.route == Route::Tunnel    ? &tunnel
                          : leaf.route == Route::Payload ? &payload
                                                         : &slots;
    CHECK(leaf.place == *end);
    *end += end == &slots ? 1 : round_up(end == &tunnel ? leaf.room() : leaf.bytes(), kAlignment);
  }
  CHECK(layout.shapes.size() == dims);
  CHECK(slots == layout.slots && tunnel == layout.tunnel_bytes && payload == layout.payload_bytes);
  CHECK(payload == layout.header.payload_bytes());
}

// Growing a vector doubles it.
void check_memory(const Layout& layout, size_t size) {
  CHECK(layout.leaves.capacity() * sizeof(Leaf) <= 32 * size);
  CHECK(layout.shapes.capacity() * sizeof(int64_t) <= 16 * size);
}

void check_rows(const uint8_t* data, const Layout& layout) {
  const std::vector<Row> rows = outline(data, layout, "outputs");
  CHECK(!rows.empty() && rows.size() <= layout.header.structure_bytes);
  std::string shown;
  size_t leaf = 0;
  for (const Row& row : rows) {
    CHECK(row.depth >= 0 && row.depth <= kMaxDepth);
    CHECK(row.path.size() <= kShownPath + 3);
    CHECK(row.label.size() <= 2 * kShownText + 16 && row.text.size() <= 4 * kShownText);
    if (rows.size() <= 64) shown += row.path + row.label + row.text;
    if (row.leaf >= 0) CHECK(static_cast<size_t>(row.leaf) < layout.leaves.size());
    if (row.code != TypeCode::Tensor) continue;
    CHECK(static_cast<size_t>(row.leaf) == leaf);
    if (leaf < 8) CHECK(leaf_path(data, layout, leaf, "outputs") == row.path);
    ++leaf;
  }
  CHECK(leaf == layout.leaves.size());
  CHECK(is_utf8(shown));
}

// Flips one bit of a valid frame, chosen by its checksum: if the frame protects that bit, it must be refused.
void check_flip(const uint8_t* data, size_t size, const Header& header) {
  std::vector<uint8_t> changed(data, data + size);
  const size_t bit = header.checksum % (size * 8);
  const bool covered = bit / 8 < header.covered() || bit / 8 >= header.used;
  changed[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
  if (covered) CHECK(!understood(changed.data(), size));
}

}  // namespace

bool check_frame(const uint8_t* data, size_t size) {
  if (!understood(data, size)) return false;
  const Layout layout = parse(data, size);
  check_sections(layout.header, data, size);
  check_leaves(layout);
  check_memory(layout, size);
  check_rows(data, layout);
  check_flip(data, size, layout.header);
  return true;
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  check_frame(data, size);
  return 0;
}
