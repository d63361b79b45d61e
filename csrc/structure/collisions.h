// What it costs to build a dictionary or a set of given keys, counted before it is built: numbers can be
// chosen such that each one walks past all others.
#pragma once

#include <cstdint>
#include <span>

#include "csrc/structure/python.h"

namespace pipecodec::structure {

struct HashedKey {
  Py_hash_t hash;
  uint64_t cost;  // of comparing the key with one of the same hash
};

// The steps that CPython takes to insert the keys, one after the other, into a new dict or set of its own
// (Objects/dictobject.c, Objects/setobject.c of 3.10 to 3.14: sizes, probing). Stops counting beyond `limit`.
uint64_t dict_steps(std::span<const HashedKey> keys, uint64_t limit);
uint64_t set_steps(std::span<const HashedKey> keys, uint64_t limit);

}  // namespace pipecodec::structure
