#include "csrc/frame/outline.h"

#include <charconv>

#include "csrc/frame/internal.h"
#include "csrc/frame/node.h"

namespace pipecodec::frame {
namespace {

constexpr size_t kShownKey = 60;  // of a string, or of the bytes of a key

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

// At most `limit` bytes of a text, cut between two characters. A hostile frame can have a row for each byte
// and texts as long as itself, so the length of a row must not grow with the frame.
std::string head(std::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  while (limit > 0 && (text[limit] & 0xC0) == 0x80) --limit;
  return std::string(text.substr(0, limit)) + "…";
}

std::string tail(std::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t begin = text.size() - limit;
  while (begin < text.size() && (text[begin] & 0xC0) == 0x80) ++begin;
  return "…" + std::string(text.substr(begin));
}

constexpr char kHex[] = "0123456789abcdef";

// The text as Python shows it, but with \x for every escape; `bytes` are shown in ASCII only.
std::string quoted(std::string_view text, bool bytes = false) {
  std::string out = "'";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || c == '\'' || c == '\\' || (bytes && byte >= 0x7F)) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "'";
}

// A two's complement number in hexadecimal, which needs no division.
std::string big_int(std::string_view text) {
  const bool negative = (text.back() & 0x80) != 0;
  std::string digits;
  bool carry = negative;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>((negative ? ~c : c) + (carry ? 1 : 0));
    carry = carry && byte == 0;
    digits += kHex[byte & 15];
    digits += kHex[byte >> 4];
  }
  digits.erase(digits.find_last_not_of('0') + 1);
  return std::string(negative ? "-0x" : "0x") + std::string(digits.rbegin(), digits.rend());
}

class Outliner {
 public:
  using Each = std::function<void(const std::string&)>;

  // Keeps all rows, or the row of one leaf; or calls `each` for every leaf and keeps none.
  Outliner(const uint8_t* frame, const Layout& layout, const Root& root, int64_t only_leaf = -1,
           const Each* each = nullptr, bool whole = false)
      : only_leaf_(only_leaf),
        each_(each),
        whole_(whole),
        names_(root.names),
        path_(root.text),
        nodes_(frame, layout.header),
        values_(frame, layout.header.values_begin(), layout.header.values_end()) {
    visit(0, root.text);
  }

  std::vector<Row> rows;

 private:
  std::string first(std::string_view text, size_t limit) const {
    return whole_ ? std::string(text) : head(text, limit);
  }
  std::string name(std::string_view text) const { return first(text, kShownText); }

  // A key or another constant as one text.
  std::string constant() {
    const Node node = nodes_.next();
    std::string text = value(node);
    if (node.children == 0) return text.empty() ? kTypeNames[static_cast<uint8_t>(node.code)] : text;
    text += '(';
    constants(text, node.children);
    return text + ')';
  }

  // Reads n constants, and appends those that fit to `text`.
  void constants(std::string& text, uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      const std::string item = constant();
      if (text.size() > kShownText && !whole_) continue;
      text += (i == 0 ? "" : ", ") + item;
      text = first(text, kShownText);
    }
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
        return node.text.size() > kShownKey && !whole_
                   ? "integer of " + std::to_string(node.text.size()) + " bytes"
                   : big_int(node.text);
      case TypeCode::ConstFloat:
        return number(node.real);
      case TypeCode::ConstComplex:
        return complex_number(node.real, node.imaginary);
      case TypeCode::Str:
        return quoted(first(node.text, kShownKey));
      case TypeCode::Bytes:
        return node.text.size() > kShownKey && !whole_ ? "bytes of length " + std::to_string(node.text.size())
                                                       : 'b' + quoted(node.text, true);
      case TypeCode::Device:
      case TypeCode::DefaultDict:
      case TypeCode::NamedTuple:
      case TypeCode::Dataclass:
      case TypeCode::Registered:
        return name(node.text);
      case TypeCode::Enum:
        return name(node.text) + "." + name(node.member);
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
    PIPECODEC_BUG("a node of no code");
  }

  // Reads the node at path_, and all nodes in it.
  void visit(int depth, const std::string& label) {
    const Node node = nodes_.next();
    int64_t leaf = -1;
    if (node.code == TypeCode::Tensor) leaf = leaves_++;
    if (node.code == TypeCode::Alias) leaf = static_cast<int64_t>(node.number);
    std::string text = value(node);
    if (holds_constants(node.code)) {
      constants(text, node.children);
      keep(depth, label, node.code, text, leaf, node.children);
      return;
    }
    uint64_t items = node.children;
    if (node.code == TypeCode::Registered) {
      text += ' ' + constant();
      --items;
    }
    if (holds_pairs(node.code)) items /= 2;
    keep(depth, label, node.code, text, leaf, items);
    const bool named =
        depth == 0 && items == names_.size() && (node.code == TypeCode::Tuple || node.code == TypeCode::List);
    if (named) path_.clear();
    const size_t length = path_.size();
    for (uint64_t i = 0; i < items; ++i) {
      std::string step = '[' + std::to_string(i) + ']';
      if (node.code == TypeCode::Dataclass) {
        step = '.' + name(nodes_.next().text);
      } else if (named) {
        step = names_[i];
      } else if (holds_pairs(node.code)) {
        step = '[' + constant() + ']';
      }
      path_ += step;
      visit(depth + 1, step);
      path_.resize(length);
    }
  }

  void keep(int depth, const std::string& label, TypeCode code, const std::string& text, int64_t leaf,
            uint64_t children) {
    if (each_ != nullptr) {
      if (code == TypeCode::Tensor) (*each_)(whole_ ? path_ : tail(path_, kShownPath));
      return;
    }
    if (only_leaf_ < 0 || (leaf == only_leaf_ && code == TypeCode::Tensor))
      rows.push_back({depth, tail(path_, kShownPath), label, code, text, leaf, children});
  }

  int64_t only_leaf_;
  const Each* each_;
  bool whole_;
  const std::vector<std::string>& names_;
  std::string path_;
  NodeReader nodes_;
  Reader values_;
  int64_t leaves_ = 0;
};

}  // namespace

std::vector<Row> outline(const uint8_t* frame, const Layout& layout, const Root& root) {
  return Outliner(frame, layout, root).rows;
}

std::string leaf_text(const Layout& layout, const Leaf& leaf) {
  const auto list = [](std::span<const int64_t> numbers) {
    std::string text;
    for (const int64_t number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
    return " [" + text + ']';
  };
  const std::string text = kDTypes[static_cast<uint8_t>(leaf.dtype)].name + list(layout.shape(leaf));
  return leaf.strided ? text + " with strides" + list(layout.strides(leaf)) : text;
}

std::string leaf_path(const uint8_t* frame, const Layout& layout, size_t leaf, const Root& root) {
  return Outliner(frame, layout, root, static_cast<int64_t>(leaf)).rows.at(0).path;
}

void each_leaf_path(const uint8_t* frame, const Layout& layout, const Root& root, bool whole,
                    const std::function<void(const std::string& path)>& each) {
  Outliner(frame, layout, root, -1, &each, whole);
}

}  // namespace pipecodec::frame
