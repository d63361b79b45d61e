// In which respect a frame is another than the one expected. For messages.
#pragma once

#include <string>

#include "csrc/codec/unpacker.h"

namespace pipecodec::codec {

std::string mismatch(const Checked& expected, const device::HostFrame& received, const frame::Root& root);

}  // namespace pipecodec::codec
