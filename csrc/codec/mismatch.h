// Describes, for messages, how a received frame differs from the expected one.
#pragma once

#include <string>

#include "csrc/codec/unpacker.h"

namespace pipecodec::codec {

std::string mismatch(const Checked& expected, const device::HostFrame& received, const frame::Root& root);

}  // namespace pipecodec::codec
