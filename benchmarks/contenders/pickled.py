"""pickle, with the tensors kept out of the stream by persistent_id."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "pickle"
NOTE = (
    "C Pickler with persistent_id: bytes beside the tensors. Leaves out: the bytes' way into a "
    "tensor, checksum, safety (reading a pickle may run code)."
)


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import torch

    class Sender(pickle.Pickler):
        def __init__(self, stream: io.BytesIO) -> None:
            super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
            self.tensors: list[torch.Tensor] = []

        def persistent_id(self, obj: Any) -> int | None:
            if type(obj) is not torch.Tensor:
                return None
            self.tensors.append(obj)
            return len(self.tensors) - 1

    class Receiver(pickle.Unpickler):
        def __init__(self, stream: io.BytesIO, tensors: list[torch.Tensor]) -> None:
            super().__init__(stream)
            self.tensors = tensors

        def persistent_load(self, pid: int) -> torch.Tensor:
            return self.tensors[pid]

    def send(value: Any) -> tuple[bytes, list[torch.Tensor]]:
        stream = io.BytesIO()
        sender = Sender(stream)
        sender.dump(value)
        return stream.getvalue(), sender.tensors

    def receive(wire: tuple[bytes, list[torch.Tensor]]) -> Any:
        data, tensors = wire
        return Receiver(io.BytesIO(data), tensors).load()

    return send, receive
