#include "csrc/frame/strides.h"

#include <algorithm>
#include <functional>

namespace pipecodec::frame {
namespace {

bool is_empty(Dims shape) { return std::find(shape.begin(), shape.end(), 0) != shape.end(); }

// The dimensions along which elements lie apart, from the innermost in memory outwards.
std::vector<size_t> inside_out(Dims shape, Dims strides, bool with_single) {
  std::vector<size_t> order;
  for (size_t i = shape.size(); i-- > 0;) {
    if (strides[i] != 0 && (with_single || shape[i] > 1)) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
  return order;
}

bool overlaps(Dims shape, Dims strides, const std::vector<size_t>& order) {
  int64_t last = 0;  // the farthest element of the dimensions so far
  for (const size_t i : order) {
    if (shape[i] == 1) continue;
    if (strides[i] <= last) return true;
    last += (shape[i] - 1) * strides[i];
  }
  return false;
}

}  // namespace

bool has_default_strides(Dims shape, Dims strides) {
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (strides[i] != stride) return false;
    stride *= std::max<int64_t>(shape[i], 1);
  }
  return true;
}

std::optional<uint64_t> count_stored(Dims shape, Dims strides) {
  if (is_empty(shape)) return 0;
  uint64_t count = 1;
  for (const size_t i : inside_out(shape, strides, false)) {
    if (static_cast<uint64_t>(strides[i]) != count) return std::nullopt;
    count *= static_cast<uint64_t>(shape[i]);
  }
  return count;
}

std::vector<int64_t> strides_on_arrival(Dims shape, Dims strides, int64_t element_bytes) {
  if (has_default_strides(shape, strides)) return {};
  const bool in_range = std::all_of(strides.begin(), strides.end(),
                                    [&](int64_t stride) { return stride <= largest_stride(element_bytes); });
  if (in_range && count_stored(shape, strides)) return {strides.begin(), strides.end()};
  if (is_empty(shape)) return {};
  std::vector<size_t> order = inside_out(shape, strides, true);
  if (overlaps(shape, strides, order)) std::sort(order.begin(), order.end(), std::greater<>());
  std::vector<int64_t> made(shape.size(), 0);
  int64_t stride = 1;
  for (const size_t i : order) {
    made[i] = stride;
    stride *= shape[i];
  }
  return has_default_strides(shape, made) ? std::vector<int64_t>() : made;
}

}  // namespace pipecodec::frame
