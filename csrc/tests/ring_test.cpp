// Messages of every size through a ring, with a thread on either side; under ThreadSanitizer too.
#include "csrc/ring/ring.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
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
      timeout, [](const std::function<void()>& wait) { wait(); });
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
  writer.connect(getpid());
  Reader reader(getpid(), writer.file(), writer.secret());
  std::thread sender([&] {
    for (int i = 0; i < kMessages; ++i) post(writer, message(i));
  });
  for (int i = 0; i < kMessages; ++i) CHECK(take(reader) == message(i));
  sender.join();
  CHECK(writer.flush(kLong));
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

}  // namespace

int main() {
  whole_and_in_order();
  whoever_waits_wakes();
  no_more_waits_than_allowed();
}
