// Errors of our own, apart from those of bytes and values: they name the line, and ask for a report.
#pragma once

#include <stdexcept>

namespace pipecodec::frame {

class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void internal_error(const char* file, int line, const char* broken);

// Set by PIPECODEC_DEBUG=1 (docs/debugging.md).
#ifdef PIPECODEC_DEBUG
inline constexpr bool kDebug = true;
#else
inline constexpr bool kDebug = false;
#endif

}  // namespace pipecodec::frame

// Where no input can lead.
#define PIPECODEC_BUG(text) ::pipecodec::frame::internal_error(__FILE__, __LINE__, text)

// Holds whatever the input is. Never for bytes or values from outside, which are refused with an error of
// theirs.
#define PIPECODEC_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : PIPECODEC_BUG("this does not hold: " #condition))

// The same where the check costs: in debug builds alone.
#define PIPECODEC_DEBUG_CHECK(condition) PIPECODEC_CHECK(!::pipecodec::frame::kDebug || (condition))
