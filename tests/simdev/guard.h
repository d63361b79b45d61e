// The state of the simulated device, and its streams and events for torch.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/version.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "memory.h"

namespace simdev {

inline std::recursive_mutex mutex;
inline std::map<std::string, int64_t> counts;

inline void count(const std::string& what, int64_t by = 1) {
  const std::lock_guard lock(mutex);
  counts[what] += by;
}

// Tensors may outlive everything else.
inline Streams& streams() {
  static auto* const made = new Streams;
  return *made;
}
inline Memory& memory() {
  static auto* const made = new Memory(streams());
  return *made;
}
inline PinnedMemory& pinned_memory() {
  static auto* const made = new PinnedMemory(streams());
  return *made;
}

inline const c10::Device kDevice(c10::DeviceType::PrivateUse1, 0);
inline thread_local c10::StreamId current_stream = 0;
inline bool capturing = false;

// The outcome of waiting for an event.
enum class Ending { Soon, WhenLetGo, Error };
inline std::mutex ending_mutex;
inline std::condition_variable let_go;
inline Ending ending = Ending::Soon;

inline void set_ending(Ending to) {
  const std::lock_guard lock(ending_mutex);
  ending = to;
  let_go.notify_all();
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::DeviceType::PrivateUse1;
  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, kDevice, id); }
  c10::DeviceType type() const override { return static_type; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const override { return stream(current_stream); }
  c10::Stream exchangeStream(c10::Stream other) const override {
    const c10::StreamId before = current_stream;
    current_stream = other.id();
    return stream(before);
  }
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 12
  bool isStreamCapturing(const c10::Stream&) const override { return capturing; }
#endif
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    const std::lock_guard lock(mutex);
    count("event record");
    if (*event == nullptr) *event = new Point;
    point(*event) = streams().now(stream.id());
  }
  static Point& point(void* event) { return *static_cast<Point*>(event); }
  void block(void* event, const c10::Stream& stream) const override {
    const std::lock_guard lock(mutex);
    streams().queue(stream.id(), [until = point(event)] { streams().run_to(until); });
  }
  bool queryEvent(void* event) const override {
    const std::lock_guard lock(mutex);
    count("event query");
    return streams().reached(point(event));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete &point(event); }
  bool queryStream(const c10::Stream& stream) const override {
    return streams().reached(streams().now(stream.id()));
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    count("sync");
    streams().run(stream.id());
  }
  void synchronizeEvent(void* event) const override {
    count("sync");
    {
      std::unique_lock lock(ending_mutex);
      TORCH_CHECK(let_go.wait_for(lock, std::chrono::seconds(20), [] { return ending != Ending::WhenLetGo; }),
                  "nobody let the device go on");
      TORCH_CHECK(ending != Ending::Error, "the device has failed");
    }
    const std::lock_guard lock(mutex);
    streams().run_to(point(event));
  }
  void synchronizeDevice(const c10::DeviceIndex) const override {
    count("sync");
    streams().run_all();
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    if (data.get() != nullptr) memory().used_on(data.get(), stream.id());
  }
};

}  // namespace simdev
