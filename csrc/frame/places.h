// Where leaves stand, exactly: what people are shown of a path is shortened, and two of them may look alike.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "csrc/frame/header.h"

namespace pipecodec::frame {

// Numbers places: the steps that lead from a value to a leaf, each an index, a key or a field's name. The
// kind of the containers does not count, nor does anything that stands beside the way.
class Places {
 public:
  // The numbers of the places of a checked structure's leaves, in their order. Takes time by the structure's
  // size, whatever its depth.
  std::vector<uint32_t> of(const uint8_t* frame, const Header& header);

  size_t bytes() const { return bytes_; }  // of all steps that are known
  void clear();

 private:
  class Walk;

  uint32_t number(uint32_t from, const std::string& step);

  std::unordered_map<std::string, uint32_t> steps_;  // by the number of the place they start from, and bytes
  size_t bytes_ = 0;
};

}  // namespace pipecodec::frame
