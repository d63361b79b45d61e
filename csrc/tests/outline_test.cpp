// Rows of text are bounded in length, whatever the frame holds.
#include "csrc/frame/outline.h"

#include <string>

#include "csrc/tests/build.h"
#include "csrc/tests/check.h"

using namespace pipecodec::frame;
using namespace pipecodec::frame::testing;

namespace {

std::vector<Row> rows(const Parts& parts) {
  const std::vector<uint8_t> frame = build(parts);
  return outline(frame.data(), parse(frame), "outputs");
}

void append(std::vector<uint8_t>& to, const std::vector<uint8_t>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

std::vector<uint8_t> text(TypeCode type, const std::string& s) {
  Writer writer;
  writer.u8(code(type));
  writer.text(s);
  return {writer.data(), writer.data() + writer.size()};
}

void constants_are_shown() {
  const uint8_t number = code(TypeCode::ConstInt), tuple = code(TypeCode::Tuple);
  const std::vector<Row> shown =
      rows(only({code(TypeCode::Dict), 1, tuple, 2, number, 2, tuple, 0, code(TypeCode::None)}));
  CHECK(shown.size() == 2);
  CHECK(shown[1].path == "outputs[(1, TUPLE)]");
  CHECK(shown[1].label == "[(1, TUPLE)]");
  CHECK(rows(only({code(TypeCode::Set), 2, number, 2, number, 4}))[0].text == "1, 2");
}

// A regression: rows held whole paths, and paths whole keys, so that a frame of 16 kB, a list under one long
// key, took half a gigabyte to describe.
void a_long_key_is_cut() {
  constexpr uint64_t kItems = 20000;
  Writer writer;
  writer.bytes("\x11\x01\x04", 3);  // a dict of 1, its key a tuple
  writer.varint(kItems);
  for (uint64_t i = 0; i < kItems; ++i) writer.u8(code(TypeCode::None));
  writer.u8(code(TypeCode::List));
  writer.varint(kItems);
  for (uint64_t i = 0; i < kItems; ++i) writer.u8(code(TypeCode::True));
  const std::vector<Row> shown = rows(only({writer.data(), writer.data() + writer.size()}));
  CHECK(shown.size() == 2 + kItems);
  CHECK(shown[1].label.starts_with("[(None, None, "));
  CHECK(shown[1].label.ends_with("…)]"));
  size_t bytes = 0;
  for (const Row& row : shown) bytes += row.path.size() + row.label.size() + row.text.size();
  CHECK(bytes < kItems * (kShownPath + kShownText));
}

void long_names_are_cut_between_characters() {
  std::string name = "m:";
  for (int i = 0; i < 200; ++i) name += "é";
  std::vector<uint8_t> structure = text(TypeCode::NamedTuple, name);
  append(structure, {0});
  const std::string shown = rows(only(structure))[0].text;
  CHECK(shown == name.substr(0, kShownText) + "…");
  CHECK(rows(only(text(TypeCode::Str, name)))[0].text == "'" + name.substr(0, 60) + "…'");
  CHECK(rows(only(text(TypeCode::Str, "x" + name)))[0].text == "'x" + name.substr(0, 58) + "…'");
}

void a_long_path_shows_its_end() {
  std::vector<uint8_t> structure;
  for (int i = 0; i < kMaxDepth; ++i) append(structure, {code(TypeCode::List), 1});
  append(structure, {code(TypeCode::Tensor), 6, 0, 0});
  const std::vector<uint8_t> frame = build(only(structure, {}, 1));
  const Layout layout = parse(frame);
  const std::string path = leaf_path(frame.data(), layout, 0, "outputs");
  CHECK(path.starts_with("…"));
  CHECK(path.ends_with("[0][0]"));
  CHECK(path.size() <= kShownPath + 3);
  CHECK(outline(frame.data(), layout, "outputs").back().path == path);
}

}  // namespace

int main() {
  constants_are_shown();
  a_long_key_is_cut();
  long_names_are_cut_between_characters();
  a_long_path_shows_its_end();
}
