// The layout of a tensor's elements in memory: docs/format.md, section 3. Strides are in elements.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pipecodec::frame {

using Dims = std::span<const int64_t>;

// True for a dimension whose elements all share memory. The stride of a dimension of one element has no
// meaning.
constexpr bool is_expanded(int64_t size, int64_t stride) { return stride == 0 && size > 1; }

// True where the strides are exactly those that torch gives a new tensor of this shape.
bool has_default_strides(Dims shape, Dims strides);

// The number of elements in memory, if each is there once and without gaps, in any order of the dimensions
// that are not expanded. None for any other layout.
std::optional<uint64_t> count_stored(Dims shape, Dims strides);

// The strides with which a tensor arrives: its own if count_stored gives a number. Otherwise its gaps are
// closed, in the order of the dimensions in memory, or in their own order if elements overlap. Expanded
// dimensions stay so. Empty for the default strides.
std::vector<int64_t> strides_on_arrival(Dims shape, Dims strides, int64_t element_bytes);

// Larger strides are refused: torch multiplies them by the element's size.
constexpr int64_t largest_stride(int64_t element_bytes) { return (INT64_MAX - 16) / element_bytes; }

}  // namespace pipecodec::frame
