// A growing writer, and the bounds-checked reader through which all foreign bytes are read.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "csrc/frame/error.h"

namespace pipecodec::frame {

static_assert(std::endian::native == std::endian::little,
              "frames are little-endian; a big-endian host needs byte swaps");

class Writer {
 public:
  Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  Writer(Writer&& other) noexcept { *this = std::move(other); }
  Writer& operator=(Writer&& other) noexcept {
    std::swap(begin_, other.begin_);
    std::swap(cursor_, other.cursor_);
    std::swap(end_, other.end_);
    return *this;
  }
  ~Writer() { std::free(begin_); }

  void clear() { cursor_ = begin_; }
  size_t size() const { return static_cast<size_t>(cursor_ - begin_); }
  uint8_t* data() { return begin_; }
  const uint8_t* data() const { return begin_; }

  // Space for n more bytes, not yet set.
  uint8_t* extend(size_t n) {
    if (static_cast<size_t>(end_ - cursor_) < n) grow(n);
    uint8_t* at = cursor_;
    cursor_ += n;
    return at;
  }
  void u8(uint8_t value) { *extend(1) = value; }
  void bytes(const void* data, size_t n) {
    if (n != 0) std::memcpy(extend(n), data, n);
  }
  void text(std::string_view s) {
    varint(s.size());
    bytes(s.data(), s.size());
  }
  template <class T>
  void fixed(T value) {
    std::memcpy(extend(sizeof(T)), &value, sizeof(T));
  }
  void varint(uint64_t value) {
    if (static_cast<size_t>(end_ - cursor_) < 10) grow(10);
    while (value >= 0x80) {
      *cursor_++ = static_cast<uint8_t>(value) | 0x80;
      value >>= 7;
    }
    *cursor_++ = static_cast<uint8_t>(value);
  }
  // Zeros up to the next multiple of `step`.
  void align(size_t step) {
    const size_t gap = (step - size() % step) % step;
    if (gap != 0) std::memset(extend(gap), 0, gap);
  }

 private:
  void grow(size_t n) {
    const size_t used = size();
    size_t capacity = static_cast<size_t>(end_ - begin_) * 2;
    if (capacity < 512) capacity = 512;
    if (capacity < used + n) capacity = used + n;
    auto* moved = static_cast<uint8_t*>(std::realloc(begin_, capacity));
    if (moved == nullptr) throw std::bad_alloc();
    begin_ = moved;
    cursor_ = moved + used;
    end_ = moved + capacity;
  }

  uint8_t* begin_ = nullptr;
  uint8_t* cursor_ = nullptr;
  uint8_t* end_ = nullptr;
};

class Reader {
 public:
  // Reads data[begin, end). Offsets in errors are counted from `data`.
  Reader(const uint8_t* data, size_t begin, size_t end) : data_(data), at_(begin), end_(end) {}

  size_t offset() const { return at_; }
  size_t remaining() const { return end_ - at_; }

  uint8_t u8() {
    need(1);
    return data_[at_++];
  }
  bool next_is(uint8_t byte) const { return at_ < end_ && data_[at_] == byte; }
  template <class T>
  T fixed() {
    need(sizeof(T));
    T value;
    std::memcpy(&value, data_ + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  uint64_t varint() { return at_ < end_ && data_[at_] < 0x80 ? data_[at_++] : long_varint(); }
  std::string_view take(uint64_t n) {
    need(n);
    std::string_view taken(reinterpret_cast<const char*>(data_ + at_), n);
    at_ += n;
    return taken;
  }
  std::string_view text() { return take(varint()); }

 private:
  uint64_t long_varint() {
    const size_t start = at_;
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const uint8_t byte = u8();
      if (shift == 63 && byte > 1) throw Error(Reason::Varint, start, "a varint is larger than 64 bits");
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) {
        if (byte == 0 && shift != 0)
          throw Error(Reason::Varint, start, "a varint is longer than it needs to be");
        return value;
      }
    }
  }
  void need(uint64_t n) const {
    if (n > remaining()) missing(n);
  }
  [[noreturn]] void missing(uint64_t n) const {
    throw Error(Reason::Truncated, at_,
                std::to_string(n) + " bytes are needed, " + std::to_string(remaining()) + " are left");
  }

  const uint8_t* data_;
  size_t at_;
  size_t end_;
};

constexpr uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}
constexpr int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

}  // namespace pipecodec::frame
