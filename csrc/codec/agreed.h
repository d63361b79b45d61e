// What a boundary with static shapes agreed on: the sizes of the tensors of its first value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/codec/routes.h"
#include "csrc/frame/bytes.h"
#include "csrc/structure/encode.h"

namespace pipecodec::codec {

class Agreed {
 public:
  // Remembers the sizes of the first value. Of a later one that differs, says what changed; otherwise
  // returns an empty string. `root` is what the text calls the value.
  std::string check(const structure::Encoder& encoder, const Routed& routed, const frame::Root& root);

  void reset() { sizes_.clear(); }

 private:
  std::string difference(const structure::Encoder& encoder, const Routed& routed,
                         const frame::Root& root) const;

  std::vector<uint64_t> sizes_;  // bytes of the tunnel, then of each slot; empty until the first value
  frame::Writer first_;          // the first value's frame, for messages
  std::vector<bool> sized_;      // which of its leaves count in sizes_
};

}  // namespace pipecodec::codec
