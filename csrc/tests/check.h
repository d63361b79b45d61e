// A minimal test framework, so that the native tests need no package.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "csrc/frame/error.h"

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

// `action()` must throw frame::Error with this reason, at this byte, and with this text in its message.
#define CHECK_REJECTED(expected, at, text, action)                                                    \
  do {                                                                                                \
    bool thrown = false;                                                                              \
    try {                                                                                             \
      action;                                                                                         \
    } catch (const pipecodec::frame::Error& error) {                                                  \
      thrown = true;                                                                                  \
      if (error.reason != (expected) || error.offset != static_cast<size_t>(at) ||                    \
          std::string(error.what()).find(text) == std::string::npos) {                                \
        std::fprintf(stderr, "%s:%d: expected '%s' at byte %zu, got: %s\n", __FILE__, __LINE__, text, \
                     static_cast<size_t>(at), error.what());                                          \
        std::exit(1);                                                                                 \
      }                                                                                               \
    }                                                                                                 \
    if (!thrown) std::fprintf(stderr, "%s:%d: not rejected: %s\n", __FILE__, __LINE__, text);         \
    if (!thrown) std::exit(1);                                                                        \
  } while (false)
