// Varints, the writer and the cursor; and XXH64 against its published values.
#include "csrc/frame/bytes.h"

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "csrc/frame/xxh64.h"
#include "csrc/tests/check.h"

using namespace pipecodec::frame;

namespace {

uint64_t hash(std::string_view text) {
  return xxh64(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

void hashes_have_their_published_values() {
  CHECK(hash("") == 0xEF46DB3751D8E999);
  CHECK(hash("a") == 0xD24EC4F1A98C6E5B);
  CHECK(hash("abc") == 0x44BC2CF5AD770999);
  CHECK(hash("Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1);
}

void varints_come_back() {
  const uint64_t numbers[] = {0,
                              1,
                              127,
                              128,
                              300,
                              16383,
                              16384,
                              uint64_t{1} << 32,
                              uint64_t{1} << 63,
                              std::numeric_limits<uint64_t>::max()};
  for (const uint64_t number : numbers) {
    Writer writer;
    writer.varint(number);
    Reader reader(writer.data(), 0, writer.size());
    CHECK(reader.varint() == number);
    CHECK(reader.remaining() == 0);
    for (size_t cut = 0; cut < writer.size(); ++cut) {
      Reader shorter(writer.data(), 0, cut);
      CHECK_REJECTED(Reason::Truncated, cut, "are left", shorter.varint());
    }
  }
}

void varints_have_one_form() {
  const std::vector<uint8_t> overlong{0x80, 0x00};
  CHECK_REJECTED(Reason::Varint, 0, "longer than it needs", Reader(overlong.data(), 0, 2).varint());
  const std::vector<uint8_t> large{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02};
  CHECK_REJECTED(Reason::Varint, 0, "larger than 64 bits", Reader(large.data(), 0, 10).varint());
}

void zigzag_is_its_own_inverse() {
  for (const int64_t number : {int64_t{0}, int64_t{-1}, int64_t{1}, std::numeric_limits<int64_t>::min(),
                               std::numeric_limits<int64_t>::max()}) {
    CHECK(unzigzag(zigzag(number)) == number);
  }
  CHECK(zigzag(-1) == 1);
  CHECK(zigzag(1) == 2);
}

void the_cursor_stops_at_its_end() {
  const uint8_t bytes[4] = {1, 2, 3, 4};
  Reader reader(bytes, 1, 3);
  CHECK(reader.u8() == 2);
  CHECK_REJECTED(Reason::Truncated, 2, "4 bytes are needed, 1 are left", reader.fixed<uint32_t>());
  CHECK_REJECTED(Reason::Truncated, 2, "are left", reader.take(std::numeric_limits<uint64_t>::max()));
  CHECK(reader.take(1) == "\x03");
  CHECK_REJECTED(Reason::Truncated, 3, "are left", reader.u8());
}

void the_writer_grows_and_aligns() {
  Writer writer;
  for (int i = 0; i < 10000; ++i) writer.u8(static_cast<uint8_t>(i));
  writer.u8(7);
  writer.align(8);
  CHECK(writer.size() == 10008);
  CHECK(writer.data()[9999] == static_cast<uint8_t>(9999));
  CHECK(writer.data()[10000] == 7);
  for (size_t i = 10001; i < 10008; ++i) CHECK(writer.data()[i] == 0);
}

}  // namespace

int main() {
  hashes_have_their_published_values();
  varints_come_back();
  varints_have_one_form();
  zigzag_is_its_own_inverse();
  the_cursor_stops_at_its_end();
  the_writer_grows_and_aligns();
}
