// The static shapes of a boundary: the sizes of its first value's tensors, kept by all later values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/codec/routes.h"
#include "csrc/frame/bytes.h"
#include "csrc/structure/encode.h"

namespace pipecodec::codec {

class StaticShapes {
 public:
  // Remembers the sizes of the first value. If a later one differs, returns a text that names the change,
  // otherwise an empty string. `root` is the name of the value in that text.
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
