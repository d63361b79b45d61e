// The docstrings of the codec's functions; a first line with "--" below it is the signature.
#pragma once

namespace pipecodec::python {

constexpr const char* kPack = R"(pack($module, obj, device=None)
--

Turn a value into tensors: those in it that are stored as they are, and as the last one its frame.

The frame is 1-D uint8 and holds the structure with all numbers and texts. It lies on ``device``;
None: on the device of the value's first tensor, or the CPU.

Raises:
    UnsupportedTypeError: part of the value cannot cross; the message says where, and the remedy.
)";

constexpr const char* kUnpack = R"(unpack($module, tensors)
--

Rebuild the value from the tensors of ``pack``, on whichever device they are now.

A tensor of the value is the very object among ``tensors``, or made from the frame's bytes.

Raises:
    FrameError: the tensors do not fit the frame, or the bytes are no frame; ``reason`` and
        ``offset`` say in which way.
)";

constexpr const char* kCodecPack = R"(pack($self, obj, device=None)
--

Turn a value into tensors as ``pipecodec.pack`` does, by the plan of its structure if it has one.

Raises:
    UnsupportedTypeError: part of the value cannot cross; the message says where, and the remedy.
    FrameCapacityError: its frame is larger than those of this codec.
)";

constexpr const char* kCodecUnpack = R"(unpack($self, tensors)
--

Rebuild the value from the tensors of another codec's ``pack``, which has the same settings.

Raises:
    FrameError: the tensors do not fit the frame, or the bytes are no frame.
    StructureChangedError: frames are not read (``read``), and one of 1024 that came without a
        ``check`` differs from the one it was assumed to repeat.
)";

constexpr const char* kReset = R"(reset($self)
--

Forget static sizes, leaves that were settled and frames; both sides do so between two values.
)";

constexpr const char* kSend = R"(_send($self, obj, token, device=None)
--

Pack a value; a backward pass through the tunnel reaches ``token`` (with zeros) as well.

Args:
    obj: the value.
    token: a float32 tensor that the tunnel's gradient must reach even if no leaf depends on it,
        such as the one that ``receive`` returned; or None.
    device: the frame's device; None: that of the value's first tensor.

Raises:
    UnsupportedTypeError: part of the value cannot cross; the message says where.
    FrameCapacityError, StructureChangedError: the value does not fit the boundary's static sizes.
)";

constexpr const char* kReceive = R"(_receive($self, tensors, reuse=True, known=None)
--

Unpack a value, and return it with the token that ties it to the tunnel.

The value's tensors are no views, so they may be changed in place. With ``reuse`` a large leaf
shares the memory of its slot, and a single differentiable leaf of a multiple of 16 bytes that of
the tunnel; without it no leaf shares memory with a received tensor.

``known`` is the frame as this process made it, on the CPU; the one in ``tensors``, which may be on
another device by now, is not read then.

The token is an empty float32 tensor. Hand it to the next ``send``, or join it to the loss: then a
backward pass reaches the tunnel even where the value's own leaves are not used.

Raises:
    FrameError: the tensors do not match their frame.
)";

}  // namespace pipecodec::python
