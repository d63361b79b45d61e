"""A value as one message and the tensors that do not fit into it, and back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codec import TunnelCodec
from ..options import BoundaryOptions
from ..roads.ends import Buffer

__all__ = [
    "DEVICE",
    "END_MESSAGE",
    "HOST",
    "INSIDE",
    "MOST_INSIDE",
    "Decoder",
    "Encoder",
    "Incoming",
    "Outgoing",
]

SAME, REST, WHOLE, BEHIND, END = range(5)
"""A message's frame: the last one again, all but its structure, all of it, or the last tensor; or
no value follows."""

INSIDE, HOST, DEVICE = range(3)
"""Where the tensors travel: in the message, or behind it from CPU to CPU, or between devices."""

MOST_INSIDE = 1 << 16
"""Bytes of tensors on the CPU that go into the message, where two copies cost less than a send."""

_HEAD = struct.Struct("<BBHIQQQ")
"""Kind, way, tensors, characters of the device's type, bytes of the frame here and on the device,
number of tensors that went between these two devices before."""

_SECTIONS = struct.Struct("<QIII")
"""Of a frame's header, from byte 8 on: bytes used, bytes of structure, shapes and values."""

_HEADER = 48
_WORTH_LEAVING_OUT = 512
"""Bytes of header, structure and shapes from which on leaving them out is worth two copies."""


def _codec(name: str) -> TunnelCodec:
    options = BoundaryOptions(read="always", differentiable=(), dynamic_shape=True)
    return TunnelCodec.of(options, name)


def _used_and_shapes_end(frame: Any) -> tuple[int, int]:
    used, structure, shapes, _ = _SECTIONS.unpack_from(frame, 8)
    return used, _HEADER + structure + shapes


class Outgoing(NamedTuple):
    """A value to be sent: its frame, and 1-D uint8 tensors, all on ``device``.

    The tensors may share memory with those of the value. A frame with many leaves inside is the
    last tensor, and ``frame`` is empty. ``size`` is that of the frame on a device.
    """

    frame: bytes
    tensors: list[Tensor]
    device: torch.device
    size: int


class Encoder:
    """Turns values into messages, and remembers the last frame that was sent."""

    def __init__(self, name: str) -> None:
        noted: list[bytes] = []  # a list of its own: the codec holds no reference to this object
        self._noted = noted
        self._codec = _codec(name)
        self._codec.announce = lambda _, frame: noted.append(frame)
        self._last = b""

    def encode(self, obj: object) -> Outgoing:
        """Take a value apart; raises a ``CodecError`` for one that cannot be sent."""
        with torch.no_grad():
            _, *tensors, last = self._codec.pack(obj)
        frame = self._noted.pop()
        device = last.device
        if device.type == "cpu":
            if len(frame) > MOST_INSIDE:
                return Outgoing(b"", [*tensors, last[: len(frame)]], device, 0)
            return Outgoing(frame, tensors, device, 0)
        if len(frame) < _used_and_shapes_end(frame)[0]:
            tensors.append(last)  # the device alone has the bytes of the small leaves
        return Outgoing(frame, tensors, device, last.numel())

    def message(self, value: Outgoing, way: int, order: int = 0) -> list[Buffer]:
        """Return the message of a value, whose tensors travel this way, as parts."""
        kind, body = self._body(value.frame)
        sizes = [tensor.numel() for tensor in value.tensors]
        type_ = b"" if value.device.type == "cpu" else value.device.type.encode()
        length = sum(map(len, body))
        head = _HEAD.pack(kind, way, len(sizes), len(type_), length, value.size, order)
        parts: list[Buffer] = [head]
        if sizes:
            parts.append(struct.pack(f"<{len(sizes)}Q", *sizes))
        if type_:
            parts.append(type_)
        parts += body
        if way == INSIDE:
            parts += [tensor.numpy().data for tensor in value.tensors]
        return parts

    def sent(self, value: Outgoing) -> None:
        """Remember that the receiver gets this value's message."""
        self._last = value.frame or self._last

    def _body(self, frame: bytes) -> tuple[int, list[Buffer]]:
        last = self._last
        if not frame:
            return BEHIND, []
        if frame == last:
            return SAME, []
        end = _used_and_shapes_end(frame)[1]
        if end >= _WORTH_LEAVING_OUT and last:
            view = memoryview(frame)
            if frame[16:24] == last[16:24] and view[_HEADER:end] == last[_HEADER:end]:
                return REST, [view[:_HEADER], view[end:]]
        return WHOLE, [frame]


END_MESSAGE = _HEAD.pack(END, INSIDE, 0, 0, 0, 0, 0)
"""Says that no message follows."""


class Incoming(NamedTuple):
    """A received message: where its tensors are, their sizes in bytes, and its value's frame.

    ``device`` is the type of the device on which the sender has the value's tensors. A frame that
    is None is the last tensor.
    """

    way: int
    sizes: tuple[int, ...]
    device: str
    order: int
    frame: Tensor | None
    size: int
    inside: list[Tensor]


class Decoder:
    """Turns messages into values, and remembers the last frame that was received."""

    def __init__(self, name: str) -> None:
        self._codec = _codec(name)
        self._last = bytearray()
        self._tunnels: dict[torch.device, Tensor] = {}

    def open(self, message: bytearray) -> Incoming | None:
        """Return the parts of the next message; None where it says that none follows."""
        kind, way, count, letters, length, size, order = _HEAD.unpack_from(message)
        if kind == END:
            return None
        at = _HEAD.size
        sizes: tuple[int, ...] = struct.unpack_from(f"<{count}Q", message, at)
        at += 8 * count
        device = message[at : at + letters].decode() or "cpu"
        at += letters
        if kind == WHOLE:
            self._last = message[at : at + length]
        elif kind == REST:
            end = _used_and_shapes_end(self._last)[1]
            view, rest = memoryview(message)[at : at + length], bytearray()
            rest += view[:_HEADER]
            rest += self._last[_HEADER:end]
            rest += view[_HEADER:]
            self._last = rest
        at += length
        inside = []
        if way == INSIDE:
            for each in sizes:
                inside.append(_bytes_of(message, at, each))
                at += each
        frame = None if kind == BEHIND else torch.frombuffer(self._last, dtype=torch.uint8)
        return Incoming(way, sizes, device, order, frame, size, inside)

    def build(self, incoming: Incoming, tensors: Sequence[Tensor], device: torch.device) -> object:
        """Return the value, with all tensors on ``device``; it keeps the memory of ``tensors``.

        ``tensors`` are those of the message, on any device.
        """
        slots, frame, there = list(tensors), incoming.frame, None
        if frame is None:
            frame = slots.pop()
        used = _used_and_shapes_end(frame.numpy())[0]
        if len(frame) < used:
            there = slots.pop().to(device)
        slots = [tensor.to(device) for tensor in slots]
        if device.type == "cpu":
            return self._codec.unpack(
                (self._tunnel(device), *slots, frame if there is None else there)
            )
        known = torch.zeros(max(incoming.size, used), dtype=torch.uint8)
        known[: len(frame)] = frame
        if there is None:  # on a device whose leaves are all beside the frame nobody reads it
            from_host = incoming.device == "cpu"
            there = known.to(device) if from_host else torch.empty_like(known, device=device)
        value, _ = self._codec.receive((self._tunnel(device), *slots, there), True, known)
        return value

    def _tunnel(self, device: torch.device) -> Tensor:
        if device not in self._tunnels:
            self._tunnels[device] = torch.zeros(4, device=device)
        return self._tunnels[device]


def _bytes_of(message: bytearray, begin: int, size: int) -> Tensor:
    return torch.frombuffer(message, dtype=torch.uint8, offset=begin, count=size).clone()
