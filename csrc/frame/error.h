// What is wrong with a frame: one reason for each way, and the byte where it was seen.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace pipecodec::frame {

enum class Reason {
  Truncated,
  Magic,
  Version,
  Flags,
  Length,
  Checksum,
  Padding,
  StructureHash,
  Varint,
  UnknownCode,
  MisplacedCode,
  UnknownDType,
  TensorFlags,
  Shape,
  Count,
  AliasIndex,
  Text,
  UnknownType,
  Rejected,
  Depth,
  Trailing,
};

class Error : public std::runtime_error {
 public:
  Error(Reason reason, size_t offset, const std::string& what)
      : std::runtime_error("byte " + std::to_string(offset) + ": " + what), reason(reason), offset(offset) {}

  Reason reason;
  size_t offset;
};

}  // namespace pipecodec::frame
