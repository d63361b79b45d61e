// The ways in which a frame can be wrong: one reason for each, and the byte where it was seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace pipecodec::frame {

// The texts are those of FrameError.reason, in section 7 of docs/format.md; none is ever changed or reused.
#define PIPECODEC_REASONS(X)         \
  X(Truncated, "truncated")          \
  X(Magic, "magic")                  \
  X(Version, "version")              \
  X(Flags, "flags")                  \
  X(Length, "length")                \
  X(Checksum, "checksum")            \
  X(Padding, "padding")              \
  X(StructureHash, "structure_hash") \
  X(Varint, "varint")                \
  X(UnknownCode, "unknown_code")     \
  X(MisplacedCode, "misplaced_code") \
  X(UnknownDType, "unknown_dtype")   \
  X(TensorFlags, "tensor_flags")     \
  X(Shape, "shape")                  \
  X(Count, "count")                  \
  X(AliasIndex, "alias_index")       \
  X(Text, "text")                    \
  X(UnknownType, "unknown_type")     \
  X(Rejected, "rejected")            \
  X(Depth, "depth")                  \
  X(Trailing, "trailing")

enum class Reason : uint8_t {
#define X(name, text) name,
  PIPECODEC_REASONS(X)
#undef X
};

inline constexpr const char* kReasonNames[] = {
#define X(name, text) text,
    PIPECODEC_REASONS(X)
#undef X
};

class Error : public std::runtime_error {
 public:
  Error(Reason reason, size_t offset, const std::string& text)
      : std::runtime_error("byte " + std::to_string(offset) + ": " + text), reason(reason), offset(offset) {}

  Reason reason;
  size_t offset;
};

}  // namespace pipecodec::frame
