#pragma once

#include <stdexcept>
#include <string>

namespace pipecodec::ring {

struct Error : std::runtime_error {
  enum class Kind {
    Ended,    // the other side, or this one, ended the communication
    Late,     // the time was up
    Broken,   // the memory holds no message, or another one than the next
    Missing,  // there is no such memory here
    Misused,  // the caller may not do this
  };
  Error(Kind of, const std::string& text) : std::runtime_error(text), kind(of) {}
  Kind kind;
};

}  // namespace pipecodec::ring
