// The streams of the simulated device. Delayed, queued work is done only once something waits for it, so that
// work without an order is done in the wrong one.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

namespace simdev {

// Reached when the first `count` items of work on a stream are done.
struct Point {
  int64_t stream = 0;
  uint64_t count = 0;
};

class Streams {
 public:
  void queue(int64_t stream, std::function<void()> work) {
    if (recording_) graph_.push_back(work);
    if (!delayed_) return work();
    streams_[stream].work.push_back(std::move(work));
  }

  Point now(int64_t stream) {
    const Stream& at = streams_[stream];
    return {stream, at.done + at.work.size()};
  }
  bool reached(const Point& point) { return streams_[point.stream].done >= point.count; }

  void run_to(const Point& point) {
    Stream& at = streams_[point.stream];
    while (at.done < point.count) {
      const std::function<void()> next = std::move(at.work.front());
      at.work.pop_front();
      ++at.done;
      next();
    }
  }
  void run(int64_t stream) { run_to(now(stream)); }
  void run_all() {
    for (const auto& [id, stream] : streams_) run(id);
  }

  // While on, records queued work; replay() queues it again.
  void set_recording(bool on) {
    if (on) graph_.clear();
    recording_ = on;
  }
  void replay(int64_t stream) {
    for (const std::function<void()>& work : graph_) queue(stream, work);
  }

  bool delayed() const { return delayed_; }
  void set_delayed(bool on) {
    run_all();
    delayed_ = on;
  }

 private:
  struct Stream {
    std::deque<std::function<void()>> work;
    uint64_t done = 0;
  };
  std::map<int64_t, Stream> streams_;
  bool delayed_ = false;
  std::vector<std::function<void()>> graph_;
  bool recording_ = false;
};

}  // namespace simdev
