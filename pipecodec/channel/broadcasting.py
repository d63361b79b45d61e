"""Any value from one rank to all ranks of a group."""

from __future__ import annotations

import struct
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import CodecError
from .direction import Direction
from .groups import faults, group_of, member, sends
from .wire import DEVICE, HOST, INSIDE, MOST_INSIDE, Decoder, Encoder

__all__ = ["broadcast"]

_FIRST = 1024
"""Bytes of the first message, which has one size: all ranks know it beforehand."""

_HEAD = struct.Struct("<BQ")
"""Whether an error follows, and the size of the whole message behind this."""


_ways: WeakKeyDictionary[Any, Direction] = WeakKeyDictionary()
"""By group: why none follows one that was cut short."""


def broadcast(obj: Any, src: int, group: Any = None) -> Any:
    """Return rank ``src``'s value on all ranks of a group, which call this together.

    Tensors arrive as they do through a :class:`Channel`: without gradients, on the type of device
    on which the value's first tensor lies on ``src``, of that on the current one.

    Args:
        obj: the value, on rank ``src``, which gets it back as it is; ignored on others.
        src: global rank of the process that has it.
        group: the process group; None: the default one.

    Raises:
        CodecError: the value cannot be sent; the text, which has its path, is that of all ranks.
        ValueError: this rank or ``src`` is not in ``group``.
        RuntimeError: torch.distributed is not initialized.
        ConnectionError: a rank has ended, or an error other than these cut a broadcast of this
            group short before.
        TimeoutError: a rank does not take part within the group's timeout.
    """
    group = group_of("broadcast", group)
    member("src", src, group)
    way = _ways.setdefault(group, Direction("broadcast", "use another group"))
    with way.lock:
        if way.cut:
            raise ConnectionError(f"broadcast from rank {src}: {way.cut}")
        way.begun = count().__next__  # an error anywhere leaves ranks in different calls
        everyone = _Everyone(src, group)
        if dist.get_rank() == src:
            _give(obj, everyone, way)
            return obj
        return _take(everyone, way)


class _Everyone:
    """The ranks of one broadcast."""

    def __init__(self, src: int, group: Any) -> None:
        self.name = f"broadcast from rank {src}"
        self._src, self._group = src, group
        # Bytes of the host travel on the device where the group sends no tensor of the CPU.
        self._link = "cpu" if sends(group, "cpu") else str(group._device_types[0])

    def way_of(self, device: torch.device) -> int:
        """Return how tensors of a device travel."""
        return DEVICE if device.type != "cpu" and sends(self._group, device.type) else HOST

    def device_of(self, way: int, device: str) -> torch.device:
        return torch.device(device if way == DEVICE else self._link)

    def send(self, tensor: Tensor, way: int) -> None:
        """Give a tensor to all."""
        self._run(tensor.to(self.device_of(way, tensor.device.type)))

    def receive(self, size: int, way: int = HOST, device: str = "cpu") -> Tensor:
        """Take a tensor of ``size`` bytes."""
        made = torch.empty(size, dtype=torch.uint8, device=self.device_of(way, device))
        self._run(made)
        return made if way == DEVICE else made.cpu()

    def _run(self, tensor: Tensor) -> None:
        try:
            dist.broadcast(tensor, self._src, self._group)
        except RuntimeError as error:
            raise faults(self.name, error) from None


def _give(obj: Any, everyone: _Everyone, whole: Direction) -> None:
    encoder = Encoder(everyone.name)
    try:
        value = encoder.encode(obj)
    except Exception as error:
        with whole:
            _send_message([str(error).encode()], 1, everyone)
        raise
    way = everyone.way_of(value.device)
    if value.device.type == "cpu" and sum(map(len, value.tensors)) <= MOST_INSIDE:
        way = INSIDE
    message = encoder.message(value, way)
    with whole:
        _send_message(message, 0, everyone)
        if way != INSIDE:
            for tensor in value.tensors:
                everyone.send(tensor, way)


def _take(everyone: _Everyone, whole: Direction) -> Any:
    decoder = Decoder(everyone.name)
    with whole:
        first = bytearray(everyone.receive(_FIRST).numpy())
        failed, size = _HEAD.unpack_from(first)
        message = first[_HEAD.size : _HEAD.size + size]
        if size > len(message):
            message += bytearray(everyone.receive(size - len(message)).numpy())
        incoming = None if failed else decoder.open(message)
        tensors = [] if incoming is None else incoming.inside
        if incoming is not None and incoming.way != INSIDE:
            tensors = [everyone.receive(n, incoming.way, incoming.device) for n in incoming.sizes]
    if incoming is None:
        raise CodecError(message.decode(errors="replace"))
    return decoder.build(incoming, tensors, torch.device(incoming.device))


def _send_message(parts: list[Any], failed: int, everyone: _Everyone) -> None:
    message = bytearray(_HEAD.pack(failed, sum(map(len, parts))))
    for part in parts:
        message += part
    message += bytes(max(0, _FIRST - len(message)))
    tensor = torch.frombuffer(message, dtype=torch.uint8)
    for part in (tensor[:_FIRST], tensor[_FIRST:]):
        if len(part):
            everyone.send(part, HOST)
