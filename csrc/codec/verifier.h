// Frames that the host does not read: the receiver takes each for the last one again, the device compares,
// and the host looks at the outcome later.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
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

 private:
  void poll(const std::string& codec);
  // Those of the unread frames before the one of this number. To be let go of last: the end of a tensor may
  // run Python code, or let other threads run, that use this very verifier.
  std::vector<at::Tensor> take_until(size_t end);
  [[noreturn]] void refuse(const std::string& codec);

  Read read_;
  bool static_values_;

  std::optional<Checked> expected_;  // its bytes up to the payload
  at::Tensor on_device_;             // they, too
  at::Tensor verdict_;               // one int32 beside them, 0 while all is well

  std::deque<at::Tensor> unread_;            // the last frames, whose verdict is not known
  size_t count_ = 0;                         // of all frames, read or not
  size_t checked_ = 0;                       // of those before the last check
  std::optional<device::Download> outcome_;  // of the verdict
  size_t covered_ = 0;                       // of the frames that it is about, and those before them
};

}  // namespace pipecodec::codec
