"""msgspec's MessagePack, with a numbered extension type in each tensor's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "msgspec"
NOTE = "msgspec.msgpack, Encoder and Decoder reused. Leaves out: the same as msgpack."

TENSOR = 1
"""The extension type's code; its data are the tensor's number."""


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import torch
    from msgspec.msgpack import Decoder, Encoder, Ext

    sent: list[torch.Tensor] = []
    received: list[torch.Tensor] = []

    def numbered(obj: Any) -> Ext:
        if type(obj) is not torch.Tensor:
            raise NotImplementedError(f"{type(obj).__name__} has no msgpack type")
        sent.append(obj)
        return Ext(TENSOR, (len(sent) - 1).to_bytes(4, "little"))

    def tensor(_code: int, number: memoryview) -> torch.Tensor:
        return received[int.from_bytes(number, "little")]

    encode, decode = Encoder(enc_hook=numbered).encode, Decoder(ext_hook=tensor).decode

    def send(value: Any) -> tuple[bytes, list[torch.Tensor]]:
        nonlocal sent
        sent = []
        return encode(value), sent

    def receive(wire: tuple[bytes, list[torch.Tensor]]) -> Any:
        nonlocal received
        data, received = wire
        return decode(data)

    return send, receive
