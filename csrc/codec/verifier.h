// Frames that the host does not read: the receiver takes each for the last one again, and one launch on the
// device compares the two and sets a flag there if they differ. The host fetches the flag when it checks.
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

// Which frames are read. Auto: those on the CPU, where it costs nothing, and those whose numbers may differ.
enum class Read { Auto, Always, Verified };

class Verifier {
 public:
  // `static_values`: a frame's numbers are the last one's too, or else it is another frame.
  Verifier(Read read, bool static_values) : read_(read), static_values_(static_values) {}

  // Whether a frame there may go unread.
  bool applies(const at::Tensor& frame) const {
    return read_ == Read::Verified || (read_ == Read::Auto && !frame.is_cpu());
  }

  // What the frame is taken for, its comparison queued; nothing where it has to be read. Throws PythonError
  // where an earlier one is found to be another; `codec` is what messages call it.
  std::optional<Checked> expect(const at::Tensor& frame, const std::string& codec);

  // To be told of each such frame that was read: the next may be the same.
  void learn(const at::Tensor& frame, const Checked& read);

  // Returns once every frame so far, and every one that replayed graphs received, is known to be what it was
  // taken for. Throws PythonError where one is not.
  void check(const std::string& codec);

  // Forgets what is expected, but of graphs, which may be replayed all the same. Then throws as check does.
  void reset(const std::string& codec);

  frame::Root root = "outputs";  // what messages call the value

 private:
  // What frames are taken for, and which of them are known to be that.
  struct Expected {
    Checked frame;         // its bytes up to the payload
    at::Tensor on_device;  // they, too
    at::Tensor flag;       // one int32 beside them, 0 while all is well
    int64_t stream;        // behind which all is queued that concerns the two, but for graphs

    uint64_t known;  // the number of frames found right
    // Those after them: the flag says that one is wrong, and only its own bytes say which, and where. They
    // are as few as make_room() says.
    std::deque<at::Tensor> unread{};

    std::optional<device::Download> fetched{};  // the flag
    uint64_t covered = 0;                       // it is about the frames before this one

    bool written = false;   // the host has seen that the two are there, so that any stream may use them
    bool in_graph = false;  // a graph compares with it whenever it is replayed

    uint64_t end() const { return known + unread.size(); }
    void join_current_stream();
    bool wait();  // for the flag, behind everything that is queued
    // The frames before that one, which are right. To be let go of last: the end of a tensor may run Python
    // code, or let other threads run, that use this very verifier.
    std::vector<at::Tensor> take(uint64_t end);
  };

  void make_room(uint64_t frame_bytes, const std::string& codec);
  void keep_for_graph(const std::shared_ptr<Expected>& expected);
  [[noreturn]] void refuse(std::shared_ptr<Expected> expected, const std::string& codec);
  void forget();

  Read read_;
  bool static_values_;
  uint64_t frames_ = 0;                 // that came, read or not
  uint64_t checked_ = 0;                // those before the last check
  std::shared_ptr<Expected> expected_;  // another may be in its place after each wait, by another thread
  std::vector<std::shared_ptr<Expected>> in_graphs_;
};

}  // namespace pipecodec::codec
