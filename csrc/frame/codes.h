// The numbers that go on the wire: type codes, dtypes, routes. A number is never reused or changed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pipecodec::frame {

// 0 to 4 are the origin's WrappedTypeCode. `Scalar` (1) was its code for a number wrapped in a tensor of its
// own; frames keep numbers exactly (8 to 14) and never hold it.
//
// Int, Float and Complex keep their value in the values section, so that a new number does not change the
// structure. Const* are the same types in places where the number belongs to the structure: dictionary keys,
// set items, slices, contexts.
#define PIPECODEC_TYPE_CODES(X)        \
  X(Tensor, 0, "TORCH_TENSOR")         \
  X(Scalar, 1, "SCALAR")               \
  X(None, 2, "TRUE_NONE")              \
  X(List, 3, "LIST")                   \
  X(Tuple, 4, "TUPLE")                 \
  X(Alias, 5, "ALIAS")                 \
  X(False, 6, "FALSE")                 \
  X(True, 7, "TRUE")                   \
  X(Int, 8, "INT")                     \
  X(Float, 9, "FLOAT")                 \
  X(Complex, 10, "COMPLEX")            \
  X(ConstInt, 11, "CONST_INT")         \
  X(BigInt, 12, "BIG_INT")             \
  X(ConstFloat, 13, "CONST_FLOAT")     \
  X(ConstComplex, 14, "CONST_COMPLEX") \
  X(Str, 15, "STR")                    \
  X(Bytes, 16, "BYTES")                \
  X(Dict, 17, "DICT")                  \
  X(OrderedDict, 18, "ORDERED_DICT")   \
  X(DefaultDict, 19, "DEFAULT_DICT")   \
  X(Deque, 20, "DEQUE")                \
  X(Set, 21, "SET")                    \
  X(FrozenSet, 22, "FROZEN_SET")       \
  X(NamedTuple, 23, "NAMED_TUPLE")     \
  X(Dataclass, 24, "DATACLASS")        \
  X(Enum, 25, "ENUM")                  \
  X(Size, 26, "SIZE")                  \
  X(DType, 27, "DTYPE")                \
  X(Device, 28, "DEVICE")              \
  X(Slice, 29, "SLICE")                \
  X(Range, 30, "RANGE")                \
  X(Registered, 31, "REGISTERED")

enum class TypeCode : uint8_t {
#define X(name, code, text) name = code,
  PIPECODEC_TYPE_CODES(X)
#undef X
};

inline constexpr uint8_t kTypeCodeCount = 32;

// The numbers are those of c10::ScalarType (checked in csrc/device/), so that converting is a cast.
// Columns: name, code, torch's name, bytes per element.
#define PIPECODEC_DTYPES(X)                   \
  X(UInt8, 0, "uint8", 1)                     \
  X(Int8, 1, "int8", 1)                       \
  X(Int16, 2, "int16", 2)                     \
  X(Int32, 3, "int32", 4)                     \
  X(Int64, 4, "int64", 8)                     \
  X(Float16, 5, "float16", 2)                 \
  X(Float32, 6, "float32", 4)                 \
  X(Float64, 7, "float64", 8)                 \
  X(Complex32, 8, "complex32", 4)             \
  X(Complex64, 9, "complex64", 8)             \
  X(Complex128, 10, "complex128", 16)         \
  X(Bool, 11, "bool", 1)                      \
  X(QInt8, 12, "qint8", 1)                    \
  X(QUInt8, 13, "quint8", 1)                  \
  X(QInt32, 14, "qint32", 4)                  \
  X(BFloat16, 15, "bfloat16", 2)              \
  X(QUInt4x2, 16, "quint4x2", 1)              \
  X(QUInt2x4, 17, "quint2x4", 1)              \
  X(Bits1x8, 18, "bits1x8", 1)                \
  X(Bits2x4, 19, "bits2x4", 1)                \
  X(Bits4x2, 20, "bits4x2", 1)                \
  X(Bits8, 21, "bits8", 1)                    \
  X(Bits16, 22, "bits16", 2)                  \
  X(Float8E5M2, 23, "float8_e5m2", 1)         \
  X(Float8E4M3FN, 24, "float8_e4m3fn", 1)     \
  X(Float8E5M2FNUZ, 25, "float8_e5m2fnuz", 1) \
  X(Float8E4M3FNUZ, 26, "float8_e4m3fnuz", 1) \
  X(UInt16, 27, "uint16", 2)                  \
  X(UInt32, 28, "uint32", 4)                  \
  X(UInt64, 29, "uint64", 8)                  \
  X(UInt1, 30, "uint1", 1)                    \
  X(UInt2, 31, "uint2", 1)                    \
  X(UInt3, 32, "uint3", 1)                    \
  X(UInt4, 33, "uint4", 1)                    \
  X(UInt5, 34, "uint5", 1)                    \
  X(UInt6, 35, "uint6", 1)                    \
  X(UInt7, 36, "uint7", 1)                    \
  X(Int1, 37, "int1", 1)                      \
  X(Int2, 38, "int2", 1)                      \
  X(Int3, 39, "int3", 1)                      \
  X(Int4, 40, "int4", 1)                      \
  X(Int5, 41, "int5", 1)                      \
  X(Int6, 42, "int6", 1)                      \
  X(Int7, 43, "int7", 1)                      \
  X(Float8E8M0FNU, 44, "float8_e8m0fnu", 1)   \
  X(Float4E2M1FNx2, 45, "float4_e2m1fn_x2", 1)

enum class DType : uint8_t {
#define X(name, code, text, bytes) name = code,
  PIPECODEC_DTYPES(X)
#undef X
};

inline constexpr uint8_t kDTypeCount = 46;

struct DTypeInfo {
  const char* name;
  uint8_t bytes;
};

inline constexpr DTypeInfo kDTypes[kDTypeCount] = {
#define X(name, code, text, bytes) {text, bytes},
    PIPECODEC_DTYPES(X)
#undef X
};

inline constexpr const char* kTypeNames[kTypeCodeCount] = {
#define X(name, code, text) text,
    PIPECODEC_TYPE_CODES(X)
#undef X
};

// Quantized tensors travel only as slots: scale and zero point are not in the elements' bytes.
constexpr bool is_quantized(DType dtype) {
  return dtype == DType::QInt8 || dtype == DType::QUInt8 || dtype == DType::QInt32 ||
         dtype == DType::QUInt4x2 || dtype == DType::QUInt2x4;
}

// How a leaf's bits travel.
enum class Route : uint8_t {
  Slot = 0,     // the tensor itself is a slot of its own
  RawSlot = 1,  // a slot of its own holds its bytes as uint8
  Tunnel = 2,   // its bytes are in the float32 tunnel, its gradient comes back the same way
  Payload = 3,  // its bytes are in the frame
};

inline constexpr uint8_t kRouteMask = 0b0000'0011;
inline constexpr uint8_t kRequiresGradBit = 0b0000'0100;
inline constexpr uint8_t kNestedBit = 0b0000'1000;  // a nested tensor has no one shape, and none is written

inline constexpr uint8_t kStridesBit = 0b0001'0000;  // its strides follow its dimensions

inline constexpr size_t kAlignment = 16;      // of every leaf in the tunnel and in the payload, in bytes
inline constexpr size_t kCapacityStep = 256;  // frames are padded to a multiple of this, in bytes
inline constexpr int kMaxDepth = 1000;  // containers inside containers; Python's own default recursion limit

// Bytes of a big int in a range: to find its length, Python divides, which takes the square of its numbers'
// lengths.
inline constexpr size_t kMaxRangePart = 1024;

constexpr uint64_t round_up(uint64_t n, uint64_t step) { return (n + step - 1) / step * step; }

}  // namespace pipecodec::frame
