// How a tensor's elements lie in memory: docs/format.md, section 3. Strides are in elements.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pipecodec::frame {

using Dims = std::span<const int64_t>;

// A dimension along which all elements are one in memory. Of a dimension of one element the stride means
// nothing, and 0 is as good as any.
constexpr bool is_expanded(int64_t size, int64_t stride) { return stride == 0 && size > 1; }

// True where the strides are exactly those that torch gives a new tensor of this shape.
bool has_default_strides(Dims shape, Dims strides);

// How many elements are in memory where each is there once, in any order of the dimensions that are not
// expanded, and nothing lies between them. None for any other layout.
std::optional<uint64_t> count_stored(Dims shape, Dims strides);

// The strides with which a tensor arrives: its own where count_stored counts them. Gaps are closed, in the
// order in which the dimensions lie in memory; where elements overlap, in the order of the dimensions. What
// is expanded stays so. Empty where the tensor arrives with the default strides.
std::vector<int64_t> strides_on_arrival(Dims shape, Dims strides, int64_t element_bytes);

// Refused above it: torch multiplies strides by the element's size.
constexpr int64_t largest_stride(int64_t element_bytes) { return (INT64_MAX - 16) / element_bytes; }

}  // namespace pipecodec::frame
