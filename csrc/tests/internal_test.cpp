// An internal error has a class of its own, and names the line.
#include "csrc/frame/internal.h"

#include <string>

#include "csrc/tests/check.h"

using pipecodec::frame::InternalError;

namespace {

std::string text_of(void (*action)()) {
  try {
    action();
  } catch (const InternalError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

int main() {
  const std::string broken = text_of([] { PIPECODEC_CHECK(1 + 1 == 3); });
  CHECK(broken.starts_with("csrc/tests/internal_test.cpp:"));
  CHECK(broken.find(": this does not hold: 1 + 1 == 3; ") != std::string::npos);
  CHECK(text_of([] { PIPECODEC_BUG("nothing"); }).find(": nothing; this is a bug") != std::string::npos);
  CHECK(text_of([] { PIPECODEC_CHECK(1 + 1 == 2); }).empty());
  CHECK(text_of([] { PIPECODEC_DEBUG_CHECK(1 + 1 == 3); }).empty() != pipecodec::frame::kDebug);
}
