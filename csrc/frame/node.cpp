#include "csrc/frame/node.h"

#include <cstring>
#include <limits>
#include <string>

#include "csrc/frame/strides.h"

namespace pipecodec::frame {
namespace {

// Well-formed UTF-8 as the Unicode standard's table 3-7 has it: no surrogates, no overlong forms, nothing
// above U+10FFFF.
bool is_utf8(std::string_view text) {
  const auto* at = reinterpret_cast<const uint8_t*>(text.data());
  const auto* const end = at + text.size();
  while (at != end) {
    uint64_t eight = 0;
    if (end - at >= 8) {
      std::memcpy(&eight, at, 8);
      if ((eight & 0x8080808080808080) == 0) {  // all ASCII
        at += 8;
        continue;
      }
    }
    const uint8_t lead = *at++;
    if (lead < 0x80) continue;
    int more = 0;
    uint8_t low = 0x80, high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      more = 2;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      more = 3;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      return false;
    }
    for (; more > 0; --more) {
      if (at == end || *at < low || *at > high) return false;
      ++at;
      low = 0x80;
      high = 0xBF;
    }
  }
  return true;
}

// The shortest two's complement form of a number that does not fit 64 bits.
bool is_big_int(std::string_view text) {
  if (text.size() < 9) return false;
  const auto last = static_cast<int8_t>(text.back());
  const bool next_negative = (text[text.size() - 2] & 0x80) != 0;
  return !(last == 0 && !next_negative) && !(last == -1 && next_negative);
}

}  // namespace

std::string_view NodeReader::utf8() {
  const size_t at = reader_.offset();
  const std::string_view text = reader_.text();
  if (shapes_ != nullptr && !is_utf8(text)) throw Error(Reason::Text, at, "text is not valid UTF-8");
  return text;
}

uint64_t NodeReader::count(uint64_t nodes_each) {
  const size_t at = reader_.offset();
  const uint64_t n = reader_.varint();
  // Every node takes at least one byte, so a larger count is refused before anything is allocated for it.
  if (n > reader_.remaining() / nodes_each) {
    throw Error(Reason::Count, at,
                std::to_string(n) + " items are announced, " + std::to_string(reader_.remaining()) +
                    " bytes are left");
  }
  return n * nodes_each;
}

void NodeReader::tensor() {
  Node& node = node_;
  const size_t at = reader_.offset();
  const uint8_t dtype = reader_.u8();
  if (dtype >= kDTypeCount)
    throw Error(Reason::UnknownDType, at, "unknown dtype code " + std::to_string(dtype));
  const uint8_t flags = reader_.u8();
  if ((flags & ~(kRouteMask | kRequiresGradBit | kNestedBit | kStridesBit)) != 0)
    throw Error(Reason::TensorFlags, at + 1, "unknown tensor flags");
  node.dtype = static_cast<DType>(dtype);
  node.route = static_cast<Route>(flags & kRouteMask);
  node.requires_grad = (flags & kRequiresGradBit) != 0;
  node.nested = (flags & kNestedBit) != 0;
  node.strides = (flags & kStridesBit) != 0;
  if (is_quantized(node.dtype) && node.route != Route::Slot)
    throw Error(Reason::TensorFlags, at + 1, "a quantized tensor can only be a slot");
  const uint64_t dims = reader_.varint();
  if (node.nested && (node.route != Route::Slot || dims != 0))
    throw Error(Reason::TensorFlags, at + 1, "a nested tensor can only be a slot, and has no dimensions");
  if (node.strides && node.route == Route::Slot)
    throw Error(Reason::TensorFlags, at + 1, "a slot has strides of its own, and none in the frame");
  if (shapes_ == nullptr) return;
  node.dims = dims;
  dimensions(at);
  node.stored = node.elements;
  if (node.strides) strides(at);
}

void NodeReader::dimensions(size_t at) {
  Node& node = node_;
  const uint64_t dims = node.dims;
  if (dims > dims_.remaining()) {
    throw Error(Reason::Count, at + 2,
                std::to_string(dims) + " dimensions are announced, " + std::to_string(dims_.remaining()) +
                    " bytes of shapes are left");
  }
  uint64_t elements = 1;
  uint64_t extent = kDTypes[static_cast<uint8_t>(node.dtype)]
                        .bytes;  // bytes with every empty dimension counted as one, as torch bounds strides
  for (uint64_t i = 0; i < dims; ++i) {
    const uint64_t dim = dims_.varint();
    if (__builtin_mul_overflow(extent, dim == 0 ? 1 : dim, &extent) ||
        extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - kAlignment) {
      throw Error(Reason::Shape, at, "the tensor's size in bytes does not fit 63 bits");
    }
    elements *= dim;
    shapes_->push_back(static_cast<int64_t>(dim));
  }
  node.elements = node.nested ? 0 : elements;
}

void NodeReader::strides(size_t at) {
  Node& node = node_;
  if (node.dims > dims_.remaining()) {
    throw Error(Reason::Count, at + 2,
                std::to_string(node.dims) + " strides are announced, " + std::to_string(dims_.remaining()) +
                    " bytes of shapes are left");
  }
  const auto largest = static_cast<uint64_t>(largest_stride(kDTypes[static_cast<uint8_t>(node.dtype)].bytes));
  for (uint64_t i = 0; i < node.dims; ++i) {
    const uint64_t stride = dims_.varint();
    if (stride > largest) throw Error(Reason::Shape, at, "a stride in bytes does not fit 63 bits");
    shapes_->push_back(static_cast<int64_t>(stride));
  }
  const Dims both = Dims(*shapes_).last(2 * node.dims);
  const Dims shape = both.first(node.dims), strides = both.last(node.dims);
  const std::optional<uint64_t> stored = count_stored(shape, strides);
  if (!stored) throw Error(Reason::Shape, at, "the tensor's strides leave gaps in memory, or overlap");
  if (has_default_strides(shape, strides))
    throw Error(Reason::Shape, at, "the strides are those of a contiguous tensor, which has none in a frame");
  node.stored = *stored;
}

void NodeReader::finish() const {
  if (reader_.remaining() != 0)
    throw Error(Reason::Trailing, reader_.offset(), "bytes follow the end of the structure");
  if (dims_.remaining() != 0) throw Error(Reason::Trailing, dims_.offset(), "bytes follow the last shape");
}

const Node& NodeReader::next() {
  Node& node = node_;
  node.children = 0;
  node.offset = reader_.offset();
  const uint8_t code = reader_.u8();
  if (code >= kTypeCodeCount || code == static_cast<uint8_t>(TypeCode::Scalar)) {
    throw Error(Reason::UnknownCode, node.offset, "unknown type code " + std::to_string(code));
  }
  node.code = static_cast<TypeCode>(code);
  switch (node.code) {
    case TypeCode::Tensor:
      tensor();
      break;
    case TypeCode::Scalar:
    case TypeCode::None:
    case TypeCode::False:
    case TypeCode::True:
    case TypeCode::Int:
    case TypeCode::Float:
    case TypeCode::Complex:
      break;
    case TypeCode::List:
    case TypeCode::Tuple:
    case TypeCode::Set:
    case TypeCode::FrozenSet:
    case TypeCode::Size:
      node.children = count(1);
      break;
    case TypeCode::Alias:
    case TypeCode::ConstInt:
      node.number = reader_.varint();
      break;
    case TypeCode::BigInt:
      node.text = reader_.text();
      if (!is_big_int(node.text))
        throw Error(Reason::Text, node.offset, "a big integer is not in its shortest form");
      break;
    case TypeCode::ConstFloat:
      node.real = reader_.fixed<double>();
      break;
    case TypeCode::ConstComplex:
      node.real = reader_.fixed<double>();
      node.imaginary = reader_.fixed<double>();
      break;
    case TypeCode::Str:
    case TypeCode::Device:
      node.text = utf8();
      break;
    case TypeCode::Bytes:
      node.text = reader_.text();
      break;
    case TypeCode::Dict:
    case TypeCode::OrderedDict:
      node.children = count(2);
      break;
    case TypeCode::DefaultDict:
      node.text = utf8();
      node.children = count(2);
      break;
    case TypeCode::Deque:
      node.number = reader_.varint();
      node.children = count(1);
      break;
    case TypeCode::NamedTuple:
      node.text = utf8();
      node.children = count(1);
      break;
    case TypeCode::Dataclass:
      node.text = utf8();
      node.children = count(2);
      break;
    case TypeCode::Enum:
      node.text = utf8();
      node.member = utf8();
      break;
    case TypeCode::DType: {
      const uint8_t dtype = reader_.u8();
      if (dtype >= kDTypeCount) {
        throw Error(Reason::UnknownDType, node.offset + 1, "unknown dtype code " + std::to_string(dtype));
      }
      node.dtype = static_cast<DType>(dtype);
      break;
    }
    case TypeCode::Slice:
    case TypeCode::Range:
      node.children = 3;
      break;
    case TypeCode::Registered:
      node.text = utf8();
      node.children = count(1);
      if (node.children == 0) throw Error(Reason::Count, node.offset, "a registered type has a context");
      break;
  }
  return node;
}

}  // namespace pipecodec::frame
