// The grammar of the structure: one node, and its reader. docs/format.md, section 3.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "csrc/frame/bytes.h"
#include "csrc/frame/codes.h"
#include "csrc/frame/header.h"

namespace pipecodec::frame {

struct Node {
  TypeCode code = TypeCode::None;
  size_t offset = 0;      // of the type code in the frame
  uint64_t children = 0;  // nodes that follow as its children; two for each pair of a dictionary
  uint64_t number = 0;    // alias: leaf index; deque: maxlen + 1 or 0; ConstInt: zigzag
  double real = 0, imaginary = 0;
  std::string_view text;    // str, bytes, big int (two's complement), device, or the name of a type
  std::string_view member;  // enum
  DType dtype = DType::UInt8;
  Route route = Route::Slot;
  bool requires_grad = false;
  bool nested = false;
  bool strides = false;
  uint64_t dims = 0, elements = 0, stored = 0;  // of a tensor whose dimensions were read
};

class NodeReader {
 public:
  // Appends the dimensions of tensors to `shapes`, and their strides where the frame has them. Null skips
  // both; only for a frame that has been checked.
  NodeReader(const uint8_t* frame, const Header& header, std::vector<int64_t>* shapes = nullptr)
      : reader_(frame, header.structure_begin(), header.structure_end()),
        dims_(frame, header.structure_end(), header.shapes_end()),
        shapes_(shapes) {}

  // Reads one node and makes the checks that need only that node. The result is valid until the next call;
  // fields that its type does not use may hold anything, but `children` is always set. Throws Error.
  const Node& next();

  // The bytes of the structure read so far.
  size_t consumed() const { return reader_.offset() - kHeaderBytes; }

  // Skips the next node if it is a tensor, as most are; only for a frame that has been checked.
  bool skip_tensor() {
    if (!reader_.next_is(static_cast<uint8_t>(TypeCode::Tensor))) return false;
    reader_.take(3);  // code, dtype, flags
    reader_.varint();
    return true;
  }

  // Throws Error where structure or shapes go on after the last node.
  void finish() const;

 private:
  void tensor();
  void dimensions(size_t at);
  void strides(size_t at);
  std::string_view utf8();
  uint64_t count(uint64_t nodes_each);

  Reader reader_;
  Reader dims_;
  std::vector<int64_t>* shapes_;
  Node node_;  // reused: clearing it for every node takes longer than reading one
};

// True for the codes that count where containers are nested, be they empty.
constexpr bool is_container(TypeCode code) {
  return code == TypeCode::List || code == TypeCode::Tuple ||
         (code >= TypeCode::Dict && code != TypeCode::Enum && code != TypeCode::DType &&
          code != TypeCode::Device);
}

// True for the codes whose children are keys and values in turn.
constexpr bool holds_pairs(TypeCode code) {
  return code == TypeCode::Dict || code == TypeCode::OrderedDict || code == TypeCode::DefaultDict ||
         code == TypeCode::Dataclass;
}

// True for the codes whose children are constants: they belong to the structure, numbers included.
constexpr bool holds_constants(TypeCode code) {
  return code == TypeCode::Set || code == TypeCode::FrozenSet || code == TypeCode::Size ||
         code == TypeCode::Slice || code == TypeCode::Range;
}

}  // namespace pipecodec::frame
