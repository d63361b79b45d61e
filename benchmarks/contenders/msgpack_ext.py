"""msgpack, with a numbered extension type in each tensor's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "msgpack"
NOTE = (
    "Bytes beside the tensors. Leaves out: the bytes' way into a tensor, checksum, tuples (lists "
    "arrive), ints beyond 64 bits."
)

TENSOR = 1
"""The extension type's code; its data are the tensor's number."""


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import msgpack
    import torch

    def send(value: Any) -> tuple[bytes, list[torch.Tensor]]:
        tensors: list[torch.Tensor] = []

        def numbered(obj: Any) -> msgpack.ExtType:
            if type(obj) is not torch.Tensor:
                raise TypeError(f"{type(obj).__name__} has no msgpack type")
            tensors.append(obj)
            return msgpack.ExtType(TENSOR, (len(tensors) - 1).to_bytes(4, "little"))

        return msgpack.packb(value, default=numbered), tensors

    def receive(wire: tuple[bytes, list[torch.Tensor]]) -> Any:
        data, tensors = wire

        def tensor(_code: int, number: bytes) -> torch.Tensor:
            return tensors[int.from_bytes(number, "little")]

        # Any scalar may be a key, not only a string.
        return msgpack.unpackb(data, ext_hook=tensor, strict_map_key=False)

    return send, receive
