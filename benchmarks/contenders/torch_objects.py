"""torch.distributed's object path: the host's part of send_object_list, without the sending."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "torch objects"
NOTE = (
    "send_object_list on the host: the value pickled whole, into a tensor and back. Includes the "
    "tensors' own data. Leaves out: checksum, safety (as pickle), the autograd graph."
)


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import torch
    from torch.distributed import distributed_c10d

    # Private, but the very functions: the public ones need a second process to measure with.
    to_tensor, to_object = distributed_c10d._object_to_tensor, distributed_c10d._tensor_to_object
    cpu = torch.device("cpu")

    def send(value: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return to_tensor(value, cpu, None)

    def receive(wire: tuple[torch.Tensor, torch.Tensor]) -> Any:
        data, size = wire
        return to_object(data, size, None)

    return send, receive
