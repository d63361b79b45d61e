"""Values to tensors and back: pack, unpack, and Codec, which remembers one boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import _C
from ._C import pack, unpack
from .arguments import instance, one_of
from .options import BoundaryOptions, Differentiable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Codec", "Stats", "TunnelCodec", "pack", "unpack"]


class Stats(NamedTuple):
    """Counts of a codec's work since it was made."""

    frames: int
    """Values packed."""
    hits: int
    """Values whose frame would equal their structure's last one, which was returned again."""
    bytes: int
    """Bytes of all tensors packed, with the frames' padding."""
    messages: int
    """Tensors packed."""
    reads: int
    """Frames that unpacking read on the host."""


class Codec(_C.Codec):
    """Packs and unpacks the values of one boundary, and remembers their structures.

    Packing remembers the 8 structures (with their shapes) that were packed last, unpacking the 64
    that were unpacked last. A value of a known structure is recognised without writing a byte, and
    if its numbers are those of its last frame too, that same tensor is returned. So do not write
    into a frame; where that is seen (by the tensor's version counter, which misses writes through
    ``.numpy()`` and does not exist for inference tensors) a new one is made.

    One codec may be used from several threads: its calls run under the interpreter's lock, and a
    value whose own code packs with the same codec is packed correctly too.

    Args:
        capacity: bytes of every frame. None: the first frame's size, plus a quarter of it or 256
            bytes, whichever is more, rounded up to a multiple of 256. A frame that needs more is a
            FrameCapacityError before anything is returned.
        read: how a received frame is read. "always": the host reads every one, and waits for it
            where it is not on the CPU. "verified": a frame is assumed to repeat the last one that
            was read, and compared with it on its device by one launch; ``check`` says whether all
            did. Values computed from one that did not are wrong. Up to 1024 frames, 16 MiB at
            most, are kept until that is known. "auto": "verified" on devices other than the CPU,
            where reading costs nothing. "ahead": a frame travels from host to host, so that no
            device is waited for, whatever changes in it: ``pack`` makes it on the CPU, and the
            tensors beside it are the leaves, on their devices. Pipeline engines send the frames of
            such a boundary as soon as a stage's forward returns; see docs/ahead.md.
        values: "dynamic": numbers may differ from frame to frame, so one that holds any is read.
            "static": they may not, and are compared like the structure.
        transport: "slots": every tensor is passed on as it is, beside the frame. "tunnel":
            tensors that a pipeline engine can send, see TunnelCodec.
        differentiable: which leaves travel with gradients (transport "tunnel" only). "auto": those
            that require a gradient when they are first sent, or each time with ``dynamic_shape``;
            "by-dtype": every floating and complex one; or the leaves' paths as ``describe`` shows
            them.
        name: the boundary's name in messages.
        dynamic_shape: number and sizes of the tensors may differ from value to value (transport
            "tunnel" only); every frame is as large as it has to be, and at least ``capacity``,
            and is read.

    Raises:
        ValueError: an argument is none of the above.
    """

    def __new__(
        cls,
        capacity: int | None = None,
        read: Literal["auto", "always", "verified", "ahead"] = "auto",
        values: Literal["dynamic", "static"] = "dynamic",
        transport: Literal["slots", "tunnel"] = "slots",
        differentiable: Differentiable = "auto",
        name: str = "boundary",
        dynamic_shape: bool = False,
    ) -> Codec:
        """Check the settings and make a codec, a TunnelCodec for transport "tunnel"."""
        one_of("transport", transport, "slots", "tunnel")
        options = BoundaryOptions(
            capacity=capacity,
            differentiable=differentiable,
            dynamic_shape=dynamic_shape,
            read=read,
            values=values,
        )
        kind = TunnelCodec if transport == "tunnel" else AheadCodec if read == "ahead" else Codec
        return (kind if cls is Codec else cls).of(options, name)

    @classmethod
    def of(cls, options: BoundaryOptions, name: str) -> Self:
        """Make a codec of this class with these options."""
        instance("name", name, str, "a text, the boundary's name in messages")
        return super().__new__(
            cls,
            name,
            options.capacity,
            options.differentiable,
            options.dynamic_shape,
            options.reading,
            options.values == "static",
        )

    @property
    def stats(self) -> Stats:
        """The counts of this codec's work so far."""
        return Stats(*self.counts)

    def check(self) -> None:
        """Return once every frame unpacked so far is known to repeat the one it was assumed to.

        The host waits for the device, if a frame was not read. To be called before anything that
        depends on the frames cannot be undone, such as an optimizer's step; after replays of CUDA
        graphs that receive, on a stream that is behind them; and once between the first frame and
        the capture of such a graph.

        Raises:
            StructureChangedError: one differs. The message names it, counted from 0 since the last
                check, and where it differs; of a frame that a graph received it names the boundary
                alone. (``unpack`` raises it too: where the tensors do not fit the frame expected,
                and when 1024 frames came without a check.)
            FrameError: the device reported a mismatch, but the received frames now equal the
                expected one: something wrote into one after it arrived.
        """
        super().check()


class AheadCodec(Codec):
    """A codec of ``read="ahead"``: its frames lie on the CPU, beside leaves of any device."""

    def pack(self, obj: Any, device: torch.device | str | int | None = None) -> tuple[Tensor, ...]:
        """Pack a value; ``device`` has no say."""
        return super().pack(obj, "cpu")


class TunnelCodec(Codec):
    """A codec whose tensors a pipeline engine can send and differentiate.

    The tuple it packs holds

    1. the tunnel: one non-empty 1-D float32 tensor with the bits of all differentiable leaves,
       whatever their dtype; the gradient that comes back holds their gradients in the same way;
    2. each other leaf of more than 4096 bytes, as 1-D uint8;
    3. the frame: 1-D uint8, with the other leaves inside. Of the large leaves, those after the
       64th travel there too.

    Number and sizes of the tensors must stay those of the first value, unless ``dynamic_shape`` is
    set; a value that would change them is a StructureChangedError before anything is returned.

    Which leaves are differentiable does not depend on whether gradients are enabled, since both
    sides of a boundary have agreed on the tensors' sizes. With "auto" a leaf, that is a path and a
    dtype, is settled when it is first sent; where gradients are disabled then, ``requires_grad``
    says nothing, and every floating and complex leaf counts as differentiable. With
    ``dynamic_shape`` no size depends on it: each value is looked at by itself, and where gradients
    are disabled nothing is differentiable. So it is while ``evaluating`` is set to True, which asks
    for a ``reset`` on both sides before and after.

    An engine speaks with it through attributes. ``settled`` is True once a value was sent, until
    ``reset``. In a backward pass ``unused`` holds the leaves of the value sent that nobody used;
    with None its gradient says which. A value that is sent again there (checkpointing)
    leaves them out. ``donate_gradient`` is called with the gradient of a tunnel of one leaf: with
    True its memory becomes the leaf's gradient's, and nobody else uses it from then on.
    ``note_unused`` is called with the indices of the received leaves that nobody used, and the
    tunnel. With None the gradient alone says it, in its tail, which is read on the CPU only. A lone
    leaf's has no tail and is zeros; with ``mark_unused`` True one on the CPU says it in their
    place. ``announce`` is called with the tensors of every value sent, but for those sent again,
    and with the frame's bytes that the host wrote; a receiver that has them in a tensor on the CPU,
    of the frame's size, gives it as ``known`` and reads no frame of a device. ``in_flight``, where
    it is a deque, takes (tunnel, weak reference to the tensor) of every value sent, but for those
    sent again.
    """

    def pack(self, obj: Any, device: torch.device | str | int | None = None) -> tuple[Tensor, ...]:
        """Pack a value; see the class for the tensors."""
        return self.send(obj, None, device)

    def unpack(self, tensors: Sequence[Tensor]) -> Any:
        """Unpack the result of ``pack``; see ``receive`` for which tensors share memory with it."""
        return self.receive(tensors)[0]

    send = _C.Codec._send
    receive = _C.Codec._receive
