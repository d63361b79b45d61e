#include "csrc/frame/places.h"

#include <cstring>
#include <utility>

#include "csrc/frame/node.h"

namespace pipecodec::frame {

class Places::Walk {
 public:
  Walk(Places& places, const uint8_t* frame, const Header& header)
      : places_(places), frame_(frame), nodes_(frame, header) {
    path_.push_back({{}, 0, true});
    visit();
  }

  std::vector<uint32_t> found;

 private:
  struct Step {
    std::string bytes;
    uint32_t place;
    bool numbered;
  };

  void visit() {
    if (nodes_.skip_tensor()) {
      found.push_back(here());
      return;
    }
    const Node node = nodes_.next();
    if (holds_constants(node.code)) return skip(node.children);
    uint64_t items = node.children;
    if (node.code == TypeCode::Registered) {
      skip(1);
      --items;
    }
    if (holds_pairs(node.code)) items /= 2;
    for (uint64_t i = 0; i < items; ++i) {
      path_.push_back({holds_pairs(node.code) ? key() : index(i), 0, false});
      visit();
      path_.pop_back();
    }
  }

  void skip(uint64_t nodes) {
    for (; nodes > 0; --nodes) nodes += nodes_.next().children;
  }

  // The bytes of a key have a type code in front, and none is that of an index.
  std::string key() {
    const size_t begin = kHeaderBytes + nodes_.consumed();
    skip(1);
    return {reinterpret_cast<const char*>(frame_) + begin,
            reinterpret_cast<const char*>(frame_) + kHeaderBytes + nodes_.consumed()};
  }

  static std::string index(uint64_t i) {
    std::string bytes(1 + sizeof(i), static_cast<char>(TypeCode::Tensor));
    std::memcpy(bytes.data() + 1, &i, sizeof(i));
    return bytes;
  }

  // Numbers only paths that lead to a leaf, and each of their steps once.
  uint32_t here() {
    size_t i = path_.size();
    while (!path_[i - 1].numbered) --i;
    for (; i < path_.size(); ++i) {
      path_[i].place = places_.number(path_[i - 1].place, path_[i].bytes);
      path_[i].numbered = true;
    }
    return path_.back().place;
  }

  Places& places_;
  const uint8_t* frame_;
  NodeReader nodes_;
  std::vector<Step> path_;
};

std::vector<uint32_t> Places::of(const uint8_t* frame, const Header& header) {
  return Walk(*this, frame, header).found;
}

void Places::clear() {
  steps_.clear();
  bytes_ = 0;
}

uint32_t Places::number(uint32_t from, const std::string& step) {
  std::string key(reinterpret_cast<const char*>(&from), sizeof(from));
  key += step;
  const auto [found, added] = steps_.emplace(std::move(key), static_cast<uint32_t>(steps_.size() + 1));
  if (added) bytes_ += found->first.size();
  return found->second;
}

}  // namespace pipecodec::frame
