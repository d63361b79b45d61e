#include "csrc/frame/internal.h"

#include <string>

namespace pipecodec::frame {

void internal_error(const char* file, int line, const char* broken) {
  throw InternalError(std::string(file) + ':' + std::to_string(line) + ": " + broken +
                      "; this is a bug of pipecodec: please report it with this text");
}

}  // namespace pipecodec::frame
