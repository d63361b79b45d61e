// Messages of every size through a ring, with a thread on either side; under ThreadSanitizer too.
#include "csrc/ring/reader.h"
#include "csrc/ring/writer.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "csrc/tests/check.h"

using namespace pipecodec::ring;

namespace {

constexpr size_t kCapacity = 4096;
constexpr Seconds kLong(20.0);
constexpr int kMessages = 20000;

// Of any size from none to four times what the ring holds, most of them small.
size_t size_of(int number) {
  const auto drawn = static_cast<size_t>(number) * 2654435761U % 997;
  return number % 100 == 0 ? drawn * 16 : drawn % 200;
}

std::vector<uint8_t> message(int number) {
  std::vector<uint8_t> made(size_of(number));
  for (size_t i = 0; i < made.size(); ++i)
    made[i] = static_cast<uint8_t>(i * 31 + static_cast<size_t>(number));
  return made;
}

void post(Writer& writer, const std::vector<uint8_t>& bytes) {
  const size_t half = bytes.size() / 2;
  const std::array<std::span<const uint8_t>, 2> parts{std::span(bytes).first(half),
                                                      std::span(bytes).subspan(half)};
  writer.post(parts, kLong);
}

std::vector<uint8_t> take(Reader& reader, Seconds timeout = kLong) {
  std::vector<uint8_t> taken;
  reader.take(
      [&](size_t size) {
        taken.resize(size);
        return taken.data();
      },
      timeout, [](const std::function<void()>& sleep) { sleep(); });
  return taken;
}

template <class Act>
Error::Kind thrown(Act act) {
  try {
    act();
  } catch (const Error& error) {
    return error.kind;
  }
  CHECK(false);
  return Error::Kind::Broken;
}

void whole_and_in_order() {
  Writer writer(kCapacity, 1 << 18);
  writer.connect(Process::of(getpid()));
  Reader reader(getpid(), writer.file(), writer.secret());
  std::thread sender([&] {
    for (int i = 0; i < kMessages; ++i) post(writer, message(i));
  });
  for (int i = 0; i < kMessages; ++i) CHECK(take(reader) == message(i));
  sender.join();
  writer.flush(kLong);
  CHECK(!reader.ready());
}

void whoever_waits_wakes() {
  for (int round = 0; round < 20; ++round) {
    Writer writer(kCapacity, kCapacity);
    Reader reader(getpid(), writer.file(), writer.secret());
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
      round % 2 == 0 ? reader.shut() : writer.shut();
    });
    CHECK(thrown([&] { take(reader); }) == Error::Kind::Ended);
    other.join();
    CHECK(thrown([&] { post(writer, message(1)); }) == Error::Kind::Ended);
  }
}

void no_more_waits_than_allowed() {
  Writer writer(kCapacity, 2 * kCapacity);
  Reader reader(getpid(), writer.file(), writer.secret());
  const std::vector<uint8_t> large(3 * kCapacity, 7);
  post(writer, large);
  CHECK(thrown([&] {
          const std::array<std::span<const uint8_t>, 1> parts{std::span(large)};
          writer.post(parts, Seconds(0.05));
        }) == Error::Kind::Late);
  CHECK(take(reader) == large);
  CHECK(thrown([&] { take(reader, Seconds(0.05)); }) == Error::Kind::Late);
  post(writer, message(3));
  CHECK(take(reader) == message(3));
}

// A reader that writes anything for how much it took, while the thread that carries looks at it.
void counts_are_checked() {
  for (const uint64_t taken :
       {uint64_t{1}, uint64_t{1} << 63, ~uint64_t{0} - kCapacity, uint64_t{64} * kCapacity}) {
    Writer writer(kCapacity, 1 << 20);
    Mapping memory(("/proc/self/fd/" + std::to_string(writer.file())).c_str(), writer.secret());
    memory.control().taken.bytes.store(taken);
    for (const size_t size : {size_t{10}, 2 * kCapacity, 64 * kCapacity}) {
      const std::vector<uint8_t> bytes(size);
      CHECK(thrown([&] { post(writer, bytes); }) == Error::Kind::Broken);
    }
    memory.control().taken.bytes.store(0);
    post(writer, std::vector<uint8_t>(64 * kCapacity));
    memory.control().taken.bytes.store(taken + (uint64_t{1} << 62));
    CHECK(thrown([&] { writer.flush(kLong); }) == Error::Kind::Broken);
    CHECK(thrown([&] { post(writer, message(1)); }) == Error::Kind::Broken);
  }
}

void messages_left_behind_are_an_error() {
  for (int round = 0; round < 20; ++round) {
    Writer writer(kCapacity, 1 << 20);
    Reader reader(getpid(), writer.file(), writer.secret());
    post(writer, std::vector<uint8_t>(64 * kCapacity));
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
      reader.shut();
    });
    CHECK(thrown([&] { writer.flush(kLong); }) == Error::Kind::Ended);
    other.join();
  }
}

void one_thread_takes() {
  Writer writer(kCapacity, kCapacity);
  Reader reader(getpid(), writer.file(), writer.secret());
  std::atomic<int> misused{0};
  const auto act = [&] {
    try {
      take(reader);
    } catch (const Error& error) {
      misused += error.kind == Error::Kind::Misused;
    }
  };
  std::thread first(act), second(act);
  while (misused == 0) std::this_thread::yield();
  post(writer, message(1));
  first.join();
  second.join();
  CHECK(misused == 1);
}

}  // namespace

int main() {
  whole_and_in_order();
  whoever_waits_wakes();
  no_more_waits_than_allowed();
  counts_are_checked();
  messages_left_behind_are_an_error();
  one_thread_takes();
}
