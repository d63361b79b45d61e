// Frames that the host does not read: the receiver assumes that each repeats the last one, and one launch on
// the device compares the two and sets a flag there if they differ. The host fetches the flag when it checks.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "csrc/codec/unpacker.h"
#include "csrc/device/transfer.h"

namespace pipecodec::codec {

// Which frames are read. Auto: those on the CPU, where reading costs nothing, and those whose numbers may
// differ.
enum class Read { Auto, Always, Verified };

class Verifier {
 public:
  // `static_values`: a frame with other numbers than the last one is a mismatch.
  Verifier(Read read, bool static_values) : read_(read), static_values_(static_values) {}

  // Whether a frame on this device may go unread.
  bool applies(const at::Tensor& frame) const {
    return read_ == Read::Verified || (read_ == Read::Auto && !frame.is_cpu());
  }

  // Returns the expected frame, and queues the comparison with it; nothing where the frame has to be read.
  // Throws PythonError where an earlier frame differs; `codec` is the codec's name in messages.
  std::optional<Checked> expect(const at::Tensor& frame, const std::string& codec);

  // Expects the next frame to repeat this one. To be called for each such frame that was read.
  void learn(const at::Tensor& frame, const Checked& read);

  // Waits until every frame so far, those that replayed graphs received too, is known to equal the expected
  // one. Throws PythonError where one differs.
  void check(const std::string& codec);

  // Forgets the expected frame, but keeps those of graphs, which may be replayed. Then throws as check does.
  void reset(const std::string& codec);

  frame::Root root = "outputs";  // the value's name in messages

 private:
  // The frame that others should repeat, and which of those are known to do so.
  struct Expected {
    Checked frame;         // its bytes up to the payload
    at::Tensor on_device;  // the same bytes
    at::Tensor flag;       // one int32 on the same device, 0 while all is well
    int64_t stream;        // on which all uses of the two are queued, but for graphs

    uint64_t known;  // the number of frames found equal
    // The frames after them. The flag says that one differs; only their own bytes say which, and where.
    // make_room() limits their number.
    std::deque<at::Tensor> unread{};

    std::optional<device::Download> fetched{};  // the flag
    uint64_t covered = 0;                       // the flag is about the frames before this one

    bool written = false;   // the host waited for the two, so any stream may use them
    bool in_graph = false;  // replays of a graph compare with it

    uint64_t end() const { return known + unread.size(); }
    void join_current_stream();
    bool wait();  // for the flag, behind everything that is queued
    // Removes the frames before `end`, which are equal. The caller releases them last: freeing a tensor may
    // run Python code, or let other threads run, that use this very verifier.
    std::vector<at::Tensor> take(uint64_t end);
  };

  void make_room(uint64_t frame_bytes, const std::string& codec);
  void keep_for_graph(const std::shared_ptr<Expected>& expected);
  [[noreturn]] void refuse(std::shared_ptr<Expected> expected, const std::string& codec);
  void forget();

  Read read_;
  bool static_values_;
  uint64_t frames_ = 0;                 // all received frames, read or not
  uint64_t checked_ = 0;                // those before the last check
  std::shared_ptr<Expected> expected_;  // after each wait another thread may have replaced it
  std::vector<std::shared_ptr<Expected>> in_graphs_;
};

}  // namespace pipecodec::codec
