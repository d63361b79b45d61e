// XXH64, the published 64-bit hash (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), with seed 0.
//
// A standard rather than a hash of our own: a reader of docs/format.md finds it in every language, and the
// tests check ours against another implementation.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pipecodec::frame {

uint64_t xxh64(const uint8_t* data, size_t size);

}  // namespace pipecodec::frame
