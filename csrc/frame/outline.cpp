#include "csrc/frame/outline.h"

#include <charconv>

#include "csrc/frame/node.h"

namespace pipecodec::frame {
namespace {

std::string number(double value) {
  char text[32];
  const auto [end, status] = std::to_chars(text, text + sizeof(text), value);
  std::string shown(text, end);
  if (shown.find_first_not_of("-0123456789") == std::string::npos) shown += ".0";
  return shown;
}

std::string complex_number(double real, double imaginary) {
  return "(" + number(real) + (imaginary < 0 ? "" : "+") + number(imaginary) + "j)";
}

std::string quoted(std::string_view text) {
  constexpr size_t kShown = 60;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || c == '\'' || c == '\\') {
      constexpr char kHex[] = "0123456789abcdef";
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  // A cut in the middle of a character would not be UTF-8 any more.
  if (text.size() > kShown) {
    while (!out.empty() && (out.back() & 0xC0) == 0x80) out.pop_back();
    if (!out.empty() && (out.back() & 0x80) != 0) out.pop_back();
    return out + "…'";
  }
  return out + "'";
}

class Outliner {
 public:
  // Keeps every row, or only that of one leaf: the rows of a hostile frame can be much larger than the frame.
  Outliner(const uint8_t* frame, const Layout& layout, int64_t only_leaf = -1)
      : only_leaf_(only_leaf),
        nodes_(frame, layout.header),
        values_(frame, layout.header.values_begin(), layout.header.values_end()) {}

  void run(const std::string& root) { visit(0, root, root); }

  std::vector<Row> rows;

 private:
  // A key, or another constant, as one piece of text.
  std::string constant() {
    const Node node = nodes_.next();
    std::string text = value(node);
    if (node.children == 0) return text.empty() ? kTypeNames[static_cast<uint8_t>(node.code)] : text;
    text += '(';
    for (uint64_t i = 0; i < node.children; ++i) text += (i == 0 ? "" : ", ") + constant();
    return text + ')';
  }

  std::string value(const Node& node) {
    switch (node.code) {
      case TypeCode::None:
        return "None";
      case TypeCode::False:
        return "False";
      case TypeCode::True:
        return "True";
      case TypeCode::Int:
        return std::to_string(values_.fixed<int64_t>());
      case TypeCode::Float:
        return number(values_.fixed<double>());
      case TypeCode::Complex: {
        const auto real = values_.fixed<double>();
        return complex_number(real, values_.fixed<double>());
      }
      case TypeCode::ConstInt:
        return std::to_string(unzigzag(node.number));
      case TypeCode::BigInt:
        return "integer of " + std::to_string(node.text.size()) + " bytes";
      case TypeCode::ConstFloat:
        return number(node.real);
      case TypeCode::ConstComplex:
        return complex_number(node.real, node.imaginary);
      case TypeCode::Str:
        return quoted(node.text);
      case TypeCode::Bytes:
        return "bytes of length " + std::to_string(node.text.size());
      case TypeCode::Device:
      case TypeCode::DefaultDict:
      case TypeCode::NamedTuple:
      case TypeCode::Dataclass:
      case TypeCode::Registered:
        return std::string(node.text);
      case TypeCode::Enum:
        return std::string(node.text) + "." + std::string(node.member);
      case TypeCode::DType:
        return std::string("torch.") + kDTypes[static_cast<uint8_t>(node.dtype)].name;
      case TypeCode::Tensor:
      case TypeCode::Scalar:
      case TypeCode::List:
      case TypeCode::Tuple:
      case TypeCode::Alias:
      case TypeCode::Dict:
      case TypeCode::OrderedDict:
      case TypeCode::Deque:
      case TypeCode::Set:
      case TypeCode::FrozenSet:
      case TypeCode::Size:
      case TypeCode::Slice:
      case TypeCode::Range:
        return "";
    }
    return "";
  }

  void visit(int depth, const std::string& path, const std::string& label) {
    const Node node = nodes_.next();
    int64_t leaf = -1;
    if (node.code == TypeCode::Tensor) leaf = leaves_++;
    if (node.code == TypeCode::Alias) leaf = static_cast<int64_t>(node.number);
    std::string text = value(node);
    if (holds_constants(node.code)) {
      for (uint64_t i = 0; i < node.children; ++i) text += (i == 0 ? "" : ", ") + constant();
      keep({depth, path, label, node.code, text, leaf, node.children});
      return;
    }
    uint64_t items = node.children;
    if (node.code == TypeCode::Registered) {
      text += ' ' + constant();
      --items;
    }
    if (holds_pairs(node.code)) items /= 2;
    keep({depth, path, label, node.code, text, leaf, items});
    for (uint64_t i = 0; i < items; ++i) {
      std::string step = '[' + std::to_string(i) + ']';
      if (node.code == TypeCode::Dataclass) {
        step = '.' + std::string(nodes_.next().text);
      } else if (holds_pairs(node.code)) {
        step = '[' + constant() + ']';
      }
      visit(depth + 1, path + step, step);
    }
  }

  void keep(Row&& row) {
    if (only_leaf_ < 0 || (row.leaf == only_leaf_ && row.code == TypeCode::Tensor))
      rows.push_back(std::move(row));
  }

  int64_t only_leaf_;
  NodeReader nodes_;
  Reader values_;
  int64_t leaves_ = 0;
};

}  // namespace

std::vector<Row> outline(const uint8_t* frame, const Layout& layout, const std::string& root) {
  Outliner outliner(frame, layout);
  outliner.run(root);
  return std::move(outliner.rows);
}

std::string leaf_path(const uint8_t* frame, const Layout& layout, size_t leaf, const std::string& root) {
  Outliner outliner(frame, layout, static_cast<int64_t>(leaf));
  outliner.run(root);
  return outliner.rows.at(0).path;
}

}  // namespace pipecodec::frame
