"""Values to tensors and back: pack, unpack, and Codec, which remembers one boundary."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import _C
from ._C import pack, unpack
from .errors import FrameError
from .tunnel import enter_tunnel, leave_tunnel

__all__ = [
    "Codec",
    "Differentiable",
    "Stats",
    "TunnelCodec",
    "check_options",
    "one_of",
    "pack",
    "unpack",
]

Differentiable = Literal["auto", "by-dtype"] | Collection[str]


class Stats(NamedTuple):
    """What a codec has done since it was made; all counts."""

    frames: int
    """Values packed."""
    hits: int
    """Of them, those whose frame was the same bytes as before and so the same tensor."""
    bytes: int
    """Of all tensors packed, frames with their padding included."""
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
            where it is not on the CPU. "verified": a frame is taken for the last one that was read,
            and compared with it on its device without waiting; ``check`` says whether all were
            what they were taken for. What was computed from one that was not is wrong. "auto":
            "verified" on devices other than the CPU, where reading costs nothing.
        values: "dynamic": numbers may differ from frame to frame, so one that holds any is read.
            "static": they may not, and are compared like the structure.
        transport: "slots": every tensor is passed on as it is, beside the frame. "tunnel": what a
            pipeline engine can send, see TunnelCodec.
        differentiable: which leaves travel with gradients (transport "tunnel" only). "auto": those
            that require a gradient when they are first sent, or each time with ``dynamic_shape``;
            "by-dtype": every floating and complex one; or the leaves' paths as ``describe`` shows
            them.
        name: what messages call the boundary.
        dynamic_shape: number and sizes of the tensors may differ from value to value (transport
            "tunnel" only); every frame is as large as it has to be, and at least ``capacity``,
            and is read.

    Raises:
        ValueError: an argument is none of the above.
    """

    def __new__(
        cls,
        capacity: int | None = None,
        read: Literal["auto", "always", "verified"] = "auto",
        values: Literal["dynamic", "static"] = "dynamic",
        transport: Literal["slots", "tunnel"] = "slots",
        differentiable: Differentiable = "auto",
        name: str = "boundary",
        dynamic_shape: bool = False,
    ) -> Codec:
        """Check the settings and make a codec, a TunnelCodec for transport "tunnel"."""
        one_of("transport", transport, "slots", "tunnel")
        check_options(
            capacity=capacity,
            read=read,
            values=values,
            differentiable=differentiable,
            dynamic_shape=dynamic_shape,
        )
        if transport == "tunnel" and cls is Codec:
            cls = TunnelCodec
        read = "always" if dynamic_shape else read
        return super().__new__(
            cls, name, capacity, differentiable, dynamic_shape, read, values == "static"
        )

    @property
    def stats(self) -> Stats:
        """What this codec has done so far."""
        return Stats(*self.counts)

    def check(self) -> None:
        """Return once every frame unpacked so far is known to be what it was taken for.

        The host waits for the device, if a frame was not read. To be called before anything that
        depends on the frames cannot be undone, such as an optimizer's step.

        Raises:
            StructureChangedError: one was not; the message names it, counted from 0 since the last
                check, and where it differs. (``unpack`` raises it too, where it is known by then.)
        """
        super().check()


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
    dtype, is settled when it is first sent; where gradients are disabled then, what it requires
    cannot be seen, and every floating and complex one counts as differentiable. With
    ``dynamic_shape`` no size depends on it: each value is looked at by itself, and where gradients
    are disabled nothing is differentiable. So it is while ``evaluating`` is set to True, which asks
    for a ``reset`` on both sides before and after.
    """

    settled: bool = False
    """True once a value was sent, until ``reset``."""

    unused: Sequence[int] | None = None
    """The leaves of the tunnel of a value sent that nobody used, during its backward pass; None:
    its gradient says which. A value that is sent again in its backward pass (checkpointing) leaves
    them out."""

    in_flight: deque[tuple[_C.Tunnel, weakref.ref[Tensor]]] | None = None
    """If not None, the tunnels of the values that were sent, but for those sent again."""

    take_gradient: Callable[[Tensor], bool] | None = None
    """Called in backward with the gradient of a tunnel with one leaf, a tensor that may share its
    memory with the leaf's gradient if it returns True: nobody else uses it from then on."""

    note_unused: Callable[[list[int], _C.Tunnel], None] | None = None
    """Called in backward with the indices of the received leaves that nobody used, and the tunnel.
    With None the sender knows it from the tail of the gradient alone; a lone leaf has none, nor is
    it read on other devices than the CPU, and gets zeros there."""

    def pack(self, obj: Any, device: torch.device | str | int | None = None) -> tuple[Tensor, ...]:
        """Pack a value; see the class for the tensors."""
        return self.send(obj, None, device)

    def unpack(self, tensors: Sequence[Tensor]) -> Any:
        """Unpack what pack gave; see ``receive`` for which tensors share memory with it."""
        return self.receive(tensors)[0]

    def send(
        self, obj: Any, token: Tensor | None, device: torch.device | str | int | None = None
    ) -> tuple[Tensor, ...]:
        """Pack a value; a backward pass through the tunnel reaches ``token`` (with zeros) as well.

        Args:
            obj: the value.
            token: a float32 tensor that the tunnel's gradient must reach though no leaf may depend
                on it, such as the one ``receive`` gave; None for none.
            device: where the frame is to be; None: where the value's first tensor is.

        Raises:
            UnsupportedTypeError: the value holds what cannot cross; the message says where.
            FrameCapacityError, StructureChangedError: it does not fit what the boundary agreed on.
        """
        frame, tunnel, leaves, slots = _C.send(self, obj, device)
        self.settled = True
        again = in_backward()
        if again and self.unused:
            unused = frozenset(self.unused)
            leaves = tuple(t.detach() if i in unused else t for i, t in enumerate(leaves))
        if token is None:
            token = torch.zeros(0, device=frame.device, requires_grad=torch.is_grad_enabled())
        entered = enter_tunnel(tunnel, token, leaves, self)
        if self.in_flight is not None and not again:
            self.in_flight.append((tunnel, weakref.ref(entered)))
        return (entered, *slots, frame)

    def receive(
        self, tensors: Sequence[Tensor], reuse: bool = True, known: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """Unpack a value, and give the token that ties it to the tunnel.

        The value's tensors are no views, so it may be worked on in place. With ``reuse`` a large
        leaf shares the memory of its slot, and a lone differentiable one of a multiple of 16 bytes
        that of the tunnel; without it none shares memory with what was received.

        ``known`` is the frame as this process made it, on the CPU: that of ``tensors``, wherever it
        went meanwhile, is not read then.

        The token is an empty float32 tensor. Hand it to the next ``send``, or join it to the loss:
        then a backward pass reaches the tunnel even where the value's own leaves are not used.

        Raises:
            FrameError: the tensors are not what their frame says.
        """
        if not reuse:
            tunnel, *slots, frame = tensors
            tensors = (tunnel, *(slot.clone() for slot in slots), frame)
        opened = _C.receive(self, tensors, known)
        try:
            spans = opened.tunnel()
            if tensors[0].nbytes < spans.nbytes:
                raise FrameError(f"{self.name}: {_first_outside(opened, tensors[0])}")
            token, leaves = leave_tunnel(spans, tensors[0], reuse, self)
            return opened.build(leaves), token
        except FrameError:
            self.check()  # they may not fit because the frame is not what it was taken for
            raise

    def reset(self) -> None:
        """Forget what the boundary agreed on: capacity, sizes, differentiable leaves.

        Raises:
            StructureChangedError: as ``check`` does, about the frames before.
        """
        self.settled = False
        super().reset()


def check_options(
    *, capacity: Any, read: Any, values: Any, differentiable: Any, dynamic_shape: Any
) -> None:
    """Raise ``ValueError`` for an option of a :class:`Codec` that has no such value.

    Each is checked whatever the others are, and then what cannot be together.
    """
    one_of("read", read, "auto", "always", "verified")
    one_of("values", values, "dynamic", "static")
    if isinstance(differentiable, str):
        one_of("differentiable", differentiable, "auto", "by-dtype")
    elif not isinstance(differentiable, Collection):
        raise ValueError(
            f"differentiable must be 'auto', 'by-dtype' or a set of paths, not {differentiable!r}"
        )
    if not isinstance(dynamic_shape, bool):
        raise ValueError(f"dynamic_shape must be True or False, not {dynamic_shape!r}")
    if capacity is not None and not _positive_multiple(capacity, 256):
        raise ValueError(f"capacity must be a positive multiple of 256 bytes, not {capacity!r}")
    if dynamic_shape and read == "verified":
        raise ValueError('with dynamic_shape=True every frame is read: leave out read="verified"')


def _positive_multiple(value: Any, of: int) -> bool:
    return isinstance(value, int) and value > 0 and value % of == 0


def _first_outside(opened: _C.Opened, received: Tensor) -> str:
    """Say which leaf the tunnel that was received is too short for."""
    end = 0
    tunnelled = [
        (path, *leaf)
        for _, path, _, kind, _, _, leaf in opened.rows()
        if kind == "TORCH_TENSOR" and leaf[2] == "tunnel"
    ]
    for path, dtype, shape, _, _, nbytes, _ in tunnelled:
        end += -(-nbytes // 16) * 16
        if end > received.nbytes:
            return (
                f"the frame says that {path}, {dtype} {list(shape)}, ends at byte {end} of the "
                f"tunnel, tensors[0], which has only {received.nbytes}"
            )
    return f"the tunnel, tensors[0], has only {received.nbytes} bytes"


def in_backward() -> bool:
    """Return whether a backward pass is running in this thread, which runs a stage again."""
    return torch._C._current_graph_task_id() != -1


def one_of(argument: str, value: object, *allowed: str) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(
            f"{argument} must be one of {', '.join(map(repr, allowed))}, not {value!r}"
        )
