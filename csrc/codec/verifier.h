// Frames that the host does not read: the receiver takes each for the last one again, the device compares,
// and the host looks at the outcome later.
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
  // where an earlier one is known by now to be another; `codec` is what messages call it.
  std::optional<Checked> expect(const at::Tensor& frame, const std::string& codec);

  // To be told of each such frame that was read: the next may be the same.
  void learn(const at::Tensor& frame, const Checked& read);

  // Returns once every frame so far is known to be what it was taken for. Throws PythonError where one is
  // not.
  void check(const std::string& codec);

  void forget();

  frame::Root root = "outputs";  // what messages call the value

 private:
  // What frames are taken for, and which of them are known to be that.
  struct Expected {
    Checked frame;         // its bytes up to the payload
    at::Tensor on_device;  // they, too
    at::Tensor verdict;    // one int32 beside them, 0 while all is well
    int64_t stream;        // behind which all is queued that concerns the two

    uint64_t known;                   // the number of frames whose verdict is
    std::deque<at::Tensor> unread{};  // those after them

    std::optional<device::Download> outcome{};  // of the verdict
    uint64_t covered = 0;                       // it is about the frames before this one

    uint64_t end() const { return known + unread.size(); }
    void join_current_stream();
    bool wait();  // for the verdict on all of them
    // The frames before that one, which are right. To be let go of last: the end of a tensor may run Python
    // code, or let other threads run, that use this very verifier.
    std::vector<at::Tensor> take(uint64_t end);
  };

  void poll(const std::string& codec);
  [[noreturn]] void refuse(std::shared_ptr<Expected> expected, const std::string& codec);

  Read read_;
  bool static_values_;
  uint64_t frames_ = 0;                 // that came, read or not
  uint64_t checked_ = 0;                // those before the last check
  std::shared_ptr<Expected> expected_;  // another may be in its place after each wait, by another thread
};

}  // namespace pipecodec::codec
