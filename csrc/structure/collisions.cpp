#include "csrc/structure/collisions.h"

#include <bit>
#include <vector>

namespace pipecodec::structure {
namespace {

constexpr size_t kSmallest = 8;  // places of the smallest table of either kind
constexpr int kPerturbShift = 5;
constexpr size_t kLinearProbes = 9;  // of a set

// A table of numbers of keys, counted from 1; 0 is a free place.
class Table {
 public:
  Table(std::span<const HashedKey> keys, uint64_t limit) : keys_(keys), limit_(limit) {}

  uint64_t steps = 0;

  bool over() const { return steps > limit_; }

  void resize(size_t size) { places_.assign(size, 0); }

  // As a dict probes.
  void insert(size_t key, bool compare) {
    const size_t mask = places_.size() - 1;
    auto perturb = static_cast<size_t>(keys_[key].hash);
    for (size_t at = perturb & mask; !take(at, key, compare) && !over();) {
      perturb >>= kPerturbShift;
      at = (at * 5 + perturb + 1) & mask;
    }
  }

  // As a set probes: a few neighbours first.
  void insert_with_neighbours(size_t key) {
    const size_t mask = places_.size() - 1;
    auto perturb = static_cast<size_t>(keys_[key].hash);
    for (size_t at = perturb & mask; !over();) {
      const size_t last = at + kLinearProbes <= mask ? at + kLinearProbes : at;
      for (size_t near = at; near <= last; ++near) {
        if (take(near, key, true)) return;
      }
      perturb >>= kPerturbShift;
      at = (at * 5 + perturb + 1) & mask;
    }
  }

 private:
  bool take(size_t at, size_t key, bool compare) {
    ++steps;
    if (places_[at] == 0) {
      places_[at] = static_cast<uint32_t>(key + 1);
      return true;
    }
    const HashedKey& there = keys_[places_[at] - 1];
    if (compare && there.hash == keys_[key].hash) steps += there.cost;
    return false;
  }

  std::span<const HashedKey> keys_;
  uint64_t limit_;
  std::vector<uint32_t> places_;
};

}  // namespace

uint64_t dict_steps(std::span<const HashedKey> keys, uint64_t limit) {
  Table table(keys, limit);
  size_t usable = 0;
  for (size_t key = 0; key < keys.size() && !table.over(); ++key) {
    if (key >= usable) {
      const size_t size = key == 0 ? kSmallest : std::bit_ceil(key * 3);
      usable = size * 2 / 3;
      table.resize(size);
      for (size_t before = 0; before < key && !table.over(); ++before) table.insert(before, false);
    }
    table.insert(key, true);
  }
  return table.steps;
}

uint64_t set_steps(std::span<const HashedKey> keys, uint64_t limit) {
  Table table(keys, limit);
  table.resize(keys.size() * 5 < (kSmallest - 1) * 3 ? kSmallest : std::bit_ceil(keys.size() * 2 + 1));
  for (size_t key = 0; key < keys.size() && !table.over(); ++key) table.insert_with_neighbours(key);
  return table.steps;
}

}  // namespace pipecodec::structure
