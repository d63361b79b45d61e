// Exact places of leaves: a shown path is shortened, and two of them may look alike.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "csrc/frame/header.h"

namespace pipecodec::frame {

// Numbers places. A place is the steps that lead from a value to a leaf, each an index, a key or a field's
// name. Neither the containers' types nor the values beside the path count.
class Places {
 public:
  // The number of each leaf's place in a checked structure, in order. Takes time linear in the structure's
  // size, at any depth.
  std::vector<uint32_t> of(const uint8_t* frame, const Header& header);

  size_t bytes() const { return bytes_; }  // of all known steps
  void clear();

 private:
  class Walk;

  uint32_t number(uint32_t from, const std::string& step);

  std::unordered_map<std::string, uint32_t> steps_;  // key: number of the place before, and bytes
  size_t bytes_ = 0;
};

}  // namespace pipecodec::frame
