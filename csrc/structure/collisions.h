// Counts the steps of building a dictionary or a set before it is built: keys can be chosen such that each
// one collides with all others.
#pragma once

#include <cstdint>
#include <span>

#include "csrc/structure/python.h"

namespace pipecodec::structure {

struct HashedKey {
  Py_hash_t hash;
  uint64_t cost;  // of comparing the key with one of the same hash
};

// Counts the steps in which CPython inserts the keys, one after the other, into a new dict or set (sizes and
// probing as in Objects/dictobject.c and Objects/setobject.c of 3.10 to 3.14). Stops beyond `limit`.
uint64_t dict_steps(std::span<const HashedKey> keys, uint64_t limit);
uint64_t set_steps(std::span<const HashedKey> keys, uint64_t limit);

}  // namespace pipecodec::structure
