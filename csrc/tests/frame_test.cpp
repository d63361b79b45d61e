// A valid frame is read; a frame with one error is refused with its reason and its byte, for each kind of
// error.
#include <random>

#include "csrc/frame/outline.h"
#include "csrc/tests/build.h"
#include "csrc/tests/check.h"

using namespace pipecodec::frame;
using namespace pipecodec::frame::testing;

namespace {

void a_right_frame_is_understood() {
  const std::vector<uint8_t> frame = build(example());
  const Layout layout = parse(frame);
  CHECK(layout.leaves.size() == 2);
  CHECK(layout.slots == 1);
  CHECK(layout.payload_bytes == 16);
  CHECK(layout.tunnel_bytes == 0);
  CHECK(layout.leaves[0].dtype == DType::Float32);
  CHECK(layout.leaves[0].requires_grad);
  CHECK(layout.leaves[0].bytes() == 24);
  CHECK(layout.shape(layout.leaves[0])[1] == 3);
  CHECK(layout.leaves[1].route == Route::Payload);
  const std::vector<Row> rows = outline(frame.data(), layout, "outputs");
  CHECK(rows.size() == 6);
  CHECK(rows[2].path == "outputs[1]");
  CHECK(rows[2].text == "7");
  CHECK(rows[4].path == "outputs[2]['k']");
  CHECK(leaf_path(frame.data(), layout, 1, "outputs") == "outputs[2]['k']");
}

// Sets one byte of a finished frame, whose checksum then no longer holds.
std::vector<uint8_t> changed(size_t at, uint8_t byte) {
  std::vector<uint8_t> frame = build(example());
  frame[at] = byte;
  return frame;
}

void headers_are_checked() {
  const std::vector<uint8_t> right = build(example());
  for (size_t size = 0; size < kHeaderBytes; ++size) {
    CHECK_REJECTED(Reason::Truncated, size, "header of 48 bytes",
                   pipecodec::frame::parse(right.data(), size));
  }
  CHECK_REJECTED(Reason::Magic, 0, "not a pipecodec frame", parse(changed(0, 'X')));
  CHECK_REJECTED(Reason::Version, 4, "format version 1, this build reads version 2", parse(changed(4, 1)));
  CHECK_REJECTED(Reason::Flags, 5, "unknown flag", parse(changed(5, 0x83)));
  CHECK_REJECTED(Reason::Flags, 6, "reserved", parse(changed(7, 1)));
  CHECK_REJECTED(Reason::Length, 8, "were received", parse(changed(11, 1)));
  CHECK_REJECTED(Reason::Length, 16, "longer than the frame", parse(changed(18, 1)));
  CHECK_REJECTED(Reason::Checksum, 40, "checksum", parse(changed(16, 18)));
  CHECK_REJECTED(Reason::Checksum, 40, "checksum", parse(changed(kHeaderBytes, code(TypeCode::Tuple))));
  CHECK_REJECTED(Reason::Padding, right.size() - 1, "padding must be zero",
                 parse(changed(right.size() - 1, 1)));
}

// The checksum covers the structure hash too, so only a sender can make it wrong.
void the_structure_hash_is_checked() {
  std::vector<uint8_t> frame = build(example());
  const Header header = parse(frame).header;
  frame[32] ^= 1;
  const uint64_t sum = checksum(header, frame.data());
  std::memcpy(frame.data() + 40, &sum, sizeof(sum));
  CHECK_REJECTED(Reason::StructureHash, 32, "structure hash", parse(frame));
}

void no_flipped_bit_passes() {
  const std::vector<uint8_t> right = build(example());
  for (size_t bit = 0; bit < right.size() * 8; ++bit) {
    std::vector<uint8_t> frame = right;
    frame[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    bool refused = false;
    try {
      parse(frame);
    } catch (const Error&) {
      refused = true;
    }
    CHECK(refused);
  }
}

constexpr size_t kStart = kHeaderBytes;

void nodes_are_checked() {
  const uint8_t list = code(TypeCode::List), tensor = code(TypeCode::Tensor), none = code(TypeCode::None);
  CHECK_REJECTED(Reason::Truncated, kStart, "are left", parse(only({})));
  CHECK_REJECTED(Reason::UnknownCode, kStart, "unknown type code 32", parse(only({32})));
  CHECK_REJECTED(Reason::UnknownCode, kStart, "unknown type code 1", parse(only({code(TypeCode::Scalar)})));
  CHECK_REJECTED(Reason::Count, kStart + 1, "5 items are announced, 1 bytes are left",
                 parse(only({list, 5, none})));
  CHECK_REJECTED(Reason::Count, kStart + 1, "announced",
                 parse(only({code(TypeCode::Dict), 2, none, none, none})));
  CHECK_REJECTED(Reason::Truncated, kStart + 2, "are left", parse(only({code(TypeCode::Slice), none})));
  CHECK_REJECTED(Reason::Trailing, kStart + 1, "end of the structure", parse(only({none, none})));
  CHECK_REJECTED(Reason::UnknownDType, kStart + 1, "dtype code 46", parse(only({tensor, 46, 0, 0}, {}, 1)));
  CHECK_REJECTED(Reason::UnknownDType, kStart + 1, "dtype code 99", parse(only({code(TypeCode::DType), 99})));
  CHECK_REJECTED(Reason::TensorFlags, kStart + 2, "flags", parse(only({tensor, 6, 32, 0}, {}, 1)));
  CHECK_REJECTED(Reason::TensorFlags, kStart + 2, "nested", parse(only({tensor, 6, 8, 1}, {1}, 1)));
  CHECK_REJECTED(Reason::TensorFlags, kStart + 2, "nested", parse(only({tensor, 6, 9, 0}, {}, 1)));
  CHECK(parse(only({tensor, 6, 8, 0}, {}, 1)).leaves[0].bytes() == 0);
  CHECK_REJECTED(Reason::Count, kStart + 3, "3 dimensions are announced",
                 parse(only({tensor, 6, 0, 3}, {1, 1}, 1)));
  CHECK_REJECTED(Reason::Trailing, kStart + 5, "last shape", parse(only({tensor, 6, 0, 1}, {1, 1}, 1)));
  CHECK_REJECTED(
      Reason::Shape, kStart + 1, "63 bits",
      parse(only({tensor, 6, 0, 2}, {0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, 1)));
  // Two of 2**62 bytes each, together in a tunnel, and in slots of their own.
  const std::vector<uint8_t> large{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10,
                                   0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10};
  CHECK_REJECTED(Reason::Shape, kStart + 6, "63 bits together",
                 parse(only({list, 2, tensor, 6, 2, 1, tensor, 6, 2, 1}, large, 2)));
  CHECK(parse(only({list, 2, tensor, 6, 0, 1, tensor, 6, 0, 1}, large, 2)).leaves[1].bytes() == uint64_t{1}
                                                                                                    << 62);
  CHECK_REJECTED(Reason::AliasIndex, kStart + 2, "alias of leaf 0, only 0",
                 parse(only({list, 1, code(TypeCode::Alias), 0})));
  CHECK_REJECTED(Reason::Text, kStart + 1, "UTF-8", parse(only({code(TypeCode::Str), 3, 0xED, 0xA0, 0x80})));
  CHECK_REJECTED(Reason::Text, kStart + 1, "UTF-8", parse(only({code(TypeCode::Str), 2, 0xC0, 0x80})));
  CHECK_REJECTED(Reason::Text, kStart, "shortest", parse(only({code(TypeCode::BigInt), 1, 5})));
  CHECK_REJECTED(Reason::Count, kStart, "context", parse(only({code(TypeCode::Registered), 1, 'x', 0})));
}

// A leaf of dtype float32 in a slot of its own as bytes, with these dimensions and strides.
Parts strided(uint8_t dims, std::vector<uint8_t> shapes, uint8_t route = 1) {
  return only({code(TypeCode::Tensor), 6, static_cast<uint8_t>(route | kStridesBit), dims}, std::move(shapes),
              1);
}

void strides_are_checked() {
  const Layout transposed = parse(strided(2, {2, 3, 1, 2}));
  CHECK(transposed.leaves[0].bytes() == 24 && transposed.leaves[0].room() == 24);
  CHECK(transposed.strides(transposed.leaves[0])[1] == 2);
  const Layout expanded = parse(strided(3, {4, 2, 3, 0, 1, 2}, 2));
  CHECK(expanded.leaves[0].bytes() == 24 && expanded.leaves[0].room() == 96);
  CHECK(expanded.tunnel_bytes == 96);
  CHECK(parse(strided(2, {1, 3, 9, 1})).leaves[0].bytes() == 12);  // of one element a stride means nothing
  CHECK(parse(strided(2, {0, 3, 7, 5})).leaves[0].bytes() == 0);
  CHECK_REJECTED(Reason::TensorFlags, kStart + 2, "slot", parse(strided(2, {2, 3, 1, 2}, 0)));
  CHECK_REJECTED(Reason::TensorFlags, kStart + 2, "quantized",
                 parse(only({code(TypeCode::Tensor), 12, 1 | kStridesBit, 0}, {}, 1)));
  CHECK_REJECTED(Reason::Count, kStart + 3, "2 strides are announced", parse(strided(2, {2, 3, 1})));
  CHECK_REJECTED(Reason::Trailing, kStart + 8, "last shape", parse(strided(2, {2, 3, 1, 2, 5})));
  for (const auto& [first, second] : {std::pair{3, 2}, {4, 1}, {1, 1}, {1, 3}, {2, 2}, {6, 2}, {2, 0}}) {
    CHECK_REJECTED(Reason::Shape, kStart + 1, "leave gaps in memory, or overlap",
                   parse(strided(2, {2, 3, static_cast<uint8_t>(first), static_cast<uint8_t>(second)})));
  }
  CHECK_REJECTED(Reason::Shape, kStart + 1, "contiguous", parse(strided(2, {2, 3, 3, 1})));
  CHECK_REJECTED(Reason::Shape, kStart + 1, "contiguous", parse(strided(0, {})));
  CHECK_REJECTED(Reason::Shape, kStart + 1, "a stride in bytes does not fit 63 bits",
                 parse(strided(1, {1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F})));
  // Expanded to more than 63 bits: nobody could hold its gradient.
  CHECK_REJECTED(Reason::Shape, kStart + 1, "63 bits",
                 parse(strided(1, {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0})));
}

void places_are_checked() {
  const uint8_t none = code(TypeCode::None), number = code(TypeCode::ConstInt);
  CHECK_REJECTED(Reason::MisplacedCode, kStart + 2, "TORCH_TENSOR must not stand in a key",
                 parse(only({code(TypeCode::Set), 1, code(TypeCode::Tensor), 6, 0, 0}, {}, 1)));
  CHECK_REJECTED(Reason::MisplacedCode, kStart + 2, "INT must not stand in a key",
                 parse(only({code(TypeCode::Dict), 1, code(TypeCode::Int), none})));
  CHECK_REJECTED(Reason::MisplacedCode, kStart, "CONST_INT must not stand outside", parse(only({number, 2})));
  CHECK_REJECTED(Reason::MisplacedCode, kStart + 2, "in a size",
                 parse(only({code(TypeCode::Size), 1, none})));
  CHECK_REJECTED(Reason::MisplacedCode, kStart + 1, "in a range",
                 parse(only({code(TypeCode::Range), none, number, 2, number, 2})));
  CHECK_REJECTED(Reason::MisplacedCode, kStart + 4, "name of a field",
                 parse(only({code(TypeCode::Dataclass), 1, 'x', 1, none, none})));
}

void depth_is_bounded() {
  std::vector<uint8_t> deep;
  for (int i = 0; i < kMaxDepth; ++i) deep.insert(deep.end(), {code(TypeCode::List), 1});
  deep.push_back(code(TypeCode::None));
  CHECK(parse(only(deep)).leaves.empty());
  std::vector<uint8_t> empty(deep.begin(), deep.end() - 1);
  empty.insert(empty.end(), {code(TypeCode::Tuple), 0});  // empty, yet one more than 1000
  CHECK_REJECTED(Reason::Depth, kStart + 2 * kMaxDepth, "more than 1000 deep", parse(only(empty)));
  deep.insert(deep.begin(), {code(TypeCode::List), 1});
  CHECK_REJECTED(Reason::Depth, kStart + 2 * kMaxDepth, "more than 1000 deep", parse(only(deep)));
}

void totals_are_checked() {
  Parts parts = example();
  parts.leaves = 3;
  CHECK_REJECTED(Reason::Count, 28, "has 2 leaves, the header says 3", parse(parts));
  parts = example();
  parts.values.resize(16);
  CHECK_REJECTED(Reason::Length, 24, "values of 8 bytes, the header says 16", parse(parts));
  parts = example();
  parts.payload.resize(32);
  CHECK_REJECTED(Reason::Length, 8, "payload of 16 bytes, the frame has 32", parse(parts));
}

void bytes_between_leaves_are_checked() {
  Parts parts = example();
  parts.payload[3] = 1;  // the leaf's own
  CHECK(parse(parts).payload_bytes == 16);
  const size_t payload = build(parts).size() - parts.padding - parts.payload.size();
  parts.payload[15] = 1;
  CHECK_REJECTED(Reason::Padding, payload + 15, "must be zero", parse(parts));
  parts.flags = 0;
  CHECK_REJECTED(Reason::Padding, payload + 15, "must be zero", parse(parts));
}

// Python divides a range's numbers to find its length: 300 kB of them took 0.7 s, twice as many four times as
// long.
void numbers_of_a_range_are_short() {
  const auto range = [](uint8_t low, uint8_t high) {
    std::vector<uint8_t> bytes{code(TypeCode::Range), code(TypeCode::BigInt), low, high};
    bytes.resize(bytes.size() + (low & 0x7f) + high * 128, 1);
    const uint8_t number = code(TypeCode::ConstInt);
    bytes.insert(bytes.end(), {number, 2, number, 2});
    return bytes;
  };
  CHECK(parse(only(range(0x80, 8))).leaves.empty());
  CHECK_REJECTED(Reason::Rejected, kStart + 1, "more than 1024 bytes", parse(only(range(0x81, 8))));
}

// Random bytes behind a right header are refused or read, and nothing breaks.
void noise_is_survived() {
  const unsigned seed = 20260101;
  std::printf("noise seed %u\n", seed);
  std::mt19937 random(seed);
  size_t understood = 0;
  for (int i = 0; i < 200000; ++i) {
    Parts parts;
    parts.structure.resize(1 + random() % 8);
    for (uint8_t& byte : parts.structure) byte = static_cast<uint8_t>(random() % 40);
    parts.shapes.resize(random() % 2);
    for (uint8_t& byte : parts.shapes) byte = static_cast<uint8_t>(random());
    parts.leaves = random() % 2;
    const std::vector<uint8_t> frame = build(parts);
    try {
      const Layout layout = parse(frame);
      outline(frame.data(), layout, "outputs");
      ++understood;
    } catch (const Error&) {
    }
  }
  CHECK(understood > 100);
}

}  // namespace

int main() {
  a_right_frame_is_understood();
  headers_are_checked();
  the_structure_hash_is_checked();
  no_flipped_bit_passes();
  nodes_are_checked();
  strides_are_checked();
  places_are_checked();
  depth_is_bounded();
  totals_are_checked();
  bytes_between_leaves_are_checked();
  numbers_of_a_range_are_short();
  noise_is_survived();
}
