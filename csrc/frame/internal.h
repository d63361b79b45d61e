// Internal errors, distinct from errors of bytes and values: they name the line, and ask for a report.
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

// Throws at a place that no input can reach.
#define PIPECODEC_BUG(text) ::pipecodec::frame::internal_error(__FILE__, __LINE__, text)

// Throws if a condition fails that holds for every input. Never for bytes or values from outside: those are
// refused with errors of their own.
#define PIPECODEC_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : PIPECODEC_BUG("this does not hold: " #condition))

// The same for costly conditions: checked in debug builds only.
#define PIPECODEC_DEBUG_CHECK(condition) PIPECODEC_CHECK(!::pipecodec::frame::kDebug || (condition))
