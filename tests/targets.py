"""Packed values to try changes on: the corpus with both transports."""

from __future__ import annotations

import collections
import struct
from typing import Any

from pipecodec import Codec, UnsupportedTypeError, unpack
from tests.corpus import same, structures

__all__ = ["Counts", "Target", "targets"]

Counts = collections.Counter[str]


class Target:
    """One value, its packed tensors, and a codec that has unpacked them."""

    def __init__(self, name: str, value: Any, transport: Any) -> None:
        self.name, self.value = f"{name} ({transport})", value
        self.codec = Codec(transport=transport, name=name)
        *slots, frame = self.codec.pack(value)
        # With gradients a tunnel is unpacked once only; these are unpacked again and again.
        self.slots = [slot.detach() for slot in slots] if transport == "tunnel" else slots
        self.frame = frame.clone()
        self.bytes = self.frame.numpy()
        self.data = self.bytes.tobytes()
        self.used = int.from_bytes(self.data[8:16], "little")
        self.readers = [self.codec.unpack] if transport == "tunnel" else [unpack, self.codec.unpack]
        self.check()

    def sections(self) -> list[bytes]:
        """Return the frame's sections: structure, shapes, values and payload."""
        structure, shapes, values = struct.unpack("<III", self.data[16:28])
        shapes_at = 48 + structure
        values_at = -(-(shapes_at + shapes) // 8) * 8
        payload_at = -(-(values_at + values) // 16) * 16
        return [
            self.data[48:shapes_at],
            self.data[shapes_at : shapes_at + shapes],
            self.data[values_at : values_at + values],
            self.data[payload_at : self.used],
        ]

    def check(self) -> None:
        """Check that the unchanged frame gives the value, and that the codec remembers it."""
        for read in self.readers:
            assert same(read((*self.slots, self.frame)), self.value), self.name


def targets() -> list[Target]:
    """Return targets of the corpus with both transports, except tensors that no tunnel carries."""
    made = []
    for name, value in structures().items():
        for transport in ("slots", "tunnel"):
            try:
                made.append(Target(name, value, transport))
            except UnsupportedTypeError:
                assert transport == "tunnel"
    return made
