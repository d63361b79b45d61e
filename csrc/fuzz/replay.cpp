// Runs the fuzz target without libFuzzer, on files and on a few thousand changes of each, so that every
// compiler builds and tests the target and its mutator.
//
// Each argument is a file that holds one frame, a folder of such files, or a .txt file of golden frames
// (tests/data/golden_frames.txt).
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "csrc/fuzz/frame_fuzz.h"
#include "csrc/tests/check.h"

namespace {

using Bytes = std::vector<uint8_t>;

std::minstd_rand random_number(20260101);

bool is_golden(const std::filesystem::path& path) { return path.extension() == ".txt"; }

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<Bytes> read_golden(const std::filesystem::path& path) {
  std::vector<Bytes> frames;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("frame ")) frames.emplace_back();
    if (!line.starts_with(' ')) continue;
    CHECK(!frames.empty());
    std::istringstream words(line);
    std::string word;
    words >> word;  // the section's name
    while (words >> word) frames.back().push_back(static_cast<uint8_t>(std::stoi(word, nullptr, 16)));
  }
  return frames;
}

std::vector<Bytes> inputs(const std::filesystem::path& path) {
  if (is_golden(path)) return read_golden(path);
  if (!std::filesystem::is_directory(path)) return {read(path)};
  std::vector<Bytes> frames;
  for (const auto& entry : std::filesystem::directory_iterator(path)) frames.push_back(read(entry.path()));
  return frames;
}

// Counts the changes of an input, one upon another, that are frames.
int understood_changes(const Bytes& frame, int count) {
  Bytes buffer(frame.size() + 256);
  size_t size = 0;
  int understood = 0;
  for (int i = 0; i < count; ++i) {
    if (i % 16 == 0) {
      std::copy(frame.begin(), frame.end(), buffer.begin());
      size = frame.size();
    }
    size = LLVMFuzzerCustomMutator(buffer.data(), size, buffer.size(), random_number());
    CHECK(size <= buffer.size());
    // A copy of exactly that size, so that the sanitizer reports a read behind it.
    const Bytes exact(buffer.data(), buffer.data() + size);
    understood += check_frame(exact.data(), size) ? 1 : 0;
  }
  return understood;
}

}  // namespace

// A few of libFuzzer's changes: another byte, one byte more, one less.
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  const auto byte = static_cast<uint8_t>(random_number() % (random_number() % 2 == 0 ? 40 : 256));
  const size_t at = size == 0 ? 0 : random_number() % size;
  const auto kind = random_number() % 3;
  if (kind == 1 && size < max_size) {
    std::copy_backward(data + at, data + size, data + size + 1);
    data[at] = byte;
    return size + 1;
  }
  if (size == 0) return 0;
  if (kind == 2 && size > 1) {
    std::copy(data + at + 1, data + size, data + at);
    return size - 1;
  }
  data[at] = byte;
  return size;
}

int main(int count, char** arguments) {
  size_t frames = 0, changed = 0;
  for (int i = 1; i < count; ++i) {
    for (const Bytes& frame : inputs(arguments[i])) {
      ++frames;
      const bool understood = check_frame(frame.data(), frame.size());
      if (is_golden(arguments[i])) CHECK(understood);
      changed += static_cast<size_t>(understood_changes(frame, 2000));
    }
  }
  std::printf("%zu inputs; of 2000 changes to each, %zu were frames in all\n", frames, changed);
  CHECK(changed > frames);
}
