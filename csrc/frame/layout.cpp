#include "csrc/frame/layout.h"

#include <algorithm>
#include <limits>
#include <string>

#include "csrc/frame/node.h"

namespace pipecodec::frame {
namespace {

// A container with children still to be read.
struct Open {
  TypeCode code;
  bool constant;  // so are all nodes in it
  uint64_t left;
  uint64_t children;
};

bool is_value(TypeCode code) {
  return code == TypeCode::Int || code == TypeCode::Float || code == TypeCode::Complex;
}

bool is_constant_number(TypeCode code) {
  return code == TypeCode::ConstInt || code == TypeCode::ConstFloat || code == TypeCode::ConstComplex;
}

[[noreturn]] void misplaced(const Node& node, const char* where) {
  throw Error(Reason::MisplacedCode, node.offset,
              std::string(kTypeNames[static_cast<uint8_t>(node.code)]) + " must not stand " + where);
}

class Parser {
 public:
  Parser(const uint8_t* frame, Layout& layout)
      : layout_(layout), nodes_(frame, layout.header, &layout.shapes) {
    // Bounds the counts that the header claims by the bytes that a leaf and a dimension take at least.
    constexpr size_t kLeafBytes = 4;
    layout.leaves.reserve(std::min<size_t>(layout.header.leaves, layout.header.structure_bytes / kLeafBytes));
    layout.shapes.reserve(layout.header.shapes_bytes);
  }

  void run() {
    read(false);
    while (!open_.empty()) {
      Open& parent = open_.back();
      if (parent.left == 0) {
        open_.pop_back();
        continue;
      }
      const bool key = holds_pairs(parent.code) && parent.left % 2 == 0;
      const bool context = parent.code == TypeCode::Registered && parent.left == parent.children;
      --parent.left;
      const TypeCode code = parent.code;
      read(parent.constant || key || context || holds_constants(code), code, key);
    }
    nodes_.finish();
    check_totals();
  }

 private:
  void read(bool constant, TypeCode parent = TypeCode::List, bool key = false) {
    const Node& node = nodes_.next();
    ++layout_.nodes;
    if (node.code == TypeCode::Tensor && !constant) return leaf(node);  // most nodes are
    if (constant && (node.code == TypeCode::Tensor || node.code == TypeCode::Alias || is_value(node.code))) {
      misplaced(node, "in a key, a set, a slice, a range, a size or a context");
    }
    if (!constant && is_constant_number(node.code))
      misplaced(node, "outside a key, a set, a slice, a range, a size or a context");
    if (parent == TypeCode::Size && node.code != TypeCode::ConstInt) misplaced(node, "in a size");
    if (parent == TypeCode::Range && node.code != TypeCode::ConstInt && node.code != TypeCode::BigInt) {
      misplaced(node, "in a range");
    }
    if (parent == TypeCode::Range && node.code == TypeCode::BigInt && node.text.size() > kMaxRangePart) {
      throw Error(Reason::Rejected, node.offset,
                  "a range has a number of more than " + std::to_string(kMaxRangePart) + " bytes");
    }
    if (parent == TypeCode::Dataclass && key && node.code != TypeCode::Str)
      misplaced(node, "as the name of a field");
    if (node.code == TypeCode::Alias) {
      if (node.number >= layout_.leaves.size()) {
        throw Error(Reason::AliasIndex, node.offset,
                    "an alias of leaf " + std::to_string(node.number) + ", only " +
                        std::to_string(layout_.leaves.size()) + " came before it");
      }
    } else if (is_value(node.code)) {
      value_bytes_ += node.code == TypeCode::Complex ? 16 : 8;
    }
    if (!is_container(node.code)) return;
    if (open_.size() >= kMaxDepth) {
      throw Error(Reason::Depth, node.offset,
                  "containers are nested more than " + std::to_string(kMaxDepth) + " deep");
    }
    open_.push_back({node.code, constant, node.children, node.children});
  }

  void leaf(const Node& node) {
    Leaf leaf{node.dtype,
              node.route,
              node.requires_grad,
              node.nested,
              node.strides,
              static_cast<uint32_t>(node.dims),
              layout_.shapes.size() - node.dims * (node.strides ? 2 : 1),
              node.elements,
              node.stored,
              0};
    switch (leaf.route) {
      case Route::Slot:
      case Route::RawSlot:
        leaf.place = layout_.slots++;
        break;
      case Route::Tunnel:
        leaf.place = advance(layout_.tunnel_bytes, leaf.room(), node.offset);
        break;
      case Route::Payload:
        leaf.place = advance(layout_.payload_bytes, leaf.bytes(), node.offset);
        break;
    }
    layout_.leaves.push_back(leaf);
  }

  static uint64_t advance(uint64_t& total, uint64_t bytes, size_t offset) {
    const uint64_t place = total;
    if (__builtin_add_overflow(total, round_up(bytes, kAlignment), &total) ||
        total > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      throw Error(Reason::Shape, offset, "the tensors' sizes in bytes do not fit 63 bits together");
    }
    return place;
  }

  void check_totals() const {
    const Header& header = layout_.header;
    if (header.values_bytes != value_bytes_) {
      throw Error(Reason::Length, 24,
                  "the structure has values of " + std::to_string(value_bytes_) + " bytes, the header says " +
                      std::to_string(header.values_bytes));
    }
    if (header.payload_bytes() != layout_.payload_bytes) {
      throw Error(Reason::Length, 8,
                  "the structure has a payload of " + std::to_string(layout_.payload_bytes) +
                      " bytes, the frame has " + std::to_string(header.payload_bytes()));
    }
    if (header.leaves != layout_.leaves.size()) {
      throw Error(Reason::Count, 28,
                  "the structure has " + std::to_string(layout_.leaves.size()) + " leaves, the header says " +
                      std::to_string(header.leaves));
    }
  }

  Layout& layout_;
  NodeReader nodes_;
  std::vector<Open> open_;
  uint64_t value_bytes_ = 0;
};

}  // namespace

Layout parse_structure(const uint8_t* frame, const Header& header) {
  Layout layout;
  layout.header = header;
  Parser(frame, layout).run();
  check_payload(frame, layout);
  return layout;
}

void check_payload(const uint8_t* frame, const Layout& layout) {
  if (layout.payload_bytes == 0) return;
  for (const Leaf& leaf : layout.leaves) {
    if (leaf.route != Route::Payload) continue;
    const size_t begin = layout.header.payload_begin() + leaf.place;
    check_padding(frame, begin + leaf.bytes(), begin + round_up(leaf.bytes(), kAlignment));
  }
}

Layout parse(const uint8_t* frame, size_t size) { return parse_structure(frame, parse_header(frame, size)); }

}  // namespace pipecodec::frame
