"""The ways to send a value: each makes ``send`` and ``recv`` between this rank and its peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from pipecodec import Channel

__all__ = ["CONTENDERS", "OURS", "Ends", "missing"]

Ends = tuple[Callable[[Any], None], Callable[[], Any]]

OURS = "pipecodec.Channel"


def channel(peer: int, example: Any) -> Ends:
    """The channel, whose messages go through shared memory here."""
    made = Channel(peer)
    return made.send, made.recv


def object_list(peer: int, example: Any) -> Ends:
    """The object functions of torch.distributed: all is pickled, tensors too."""

    def recv() -> Any:
        got = [None]
        dist.recv_object_list(got, peer)
        return got[0]

    return lambda value: dist.send_object_list([value], peer), recv


def tensor_dict(peer: int, example: Any) -> Ends:
    """The algorithm of vLLM's and SGLang's tensor dicts: a dict's tensors are sent one by one.

    Dtypes, shapes and all other entries go before them, pickled, as a message of its size and one
    of its bytes; so does a tensor that lies deeper in the dict.
    """

    def send(value: dict[str, Any]) -> None:
        entries = [
            (
                key,
                ("tensor", entry.dtype, entry.shape) if isinstance(entry, torch.Tensor) else entry,
            )
            for key, entry in value.items()
        ]
        dist.send_object_list([entries], peer)
        for entry in value.values():
            if isinstance(entry, torch.Tensor) and entry.numel() > 0:
                dist.send(entry.contiguous(), peer)

    def recv() -> dict[str, Any]:
        got: list[Any] = [None]
        dist.recv_object_list(got, peer)
        value = {}
        for key, entry in got[0]:
            if isinstance(entry, tuple) and entry[:1] == ("tensor",):
                entry = torch.empty(entry[2], dtype=entry[1])
                if entry.numel() > 0:
                    dist.recv(entry, peer)
            value[key] = entry
        return value

    return send, recv


def init_remote(peer: int, example: Any) -> Ends:
    """tensordict's ``init_remote``: one tensor of all bytes behind pickled metadata."""
    from tensordict import TensorDict

    TensorDict(example)  # raises here where it cannot hold the value
    return (
        lambda value: TensorDict(value).init_remote(dst=peer),
        lambda: TensorDict.from_remote_init(src=peer),
    )


def in_place(peer: int, example: Any) -> Ends:
    """tensordict's ``send`` and ``recv``: tensors alone, into those of the last value."""
    from tensordict import TensorDict

    if not all(isinstance(entry, torch.Tensor) for entry in example.values()):
        raise TypeError("it sends tensors alone")
    target = TensorDict({name: torch.empty_like(entry) for name, entry in example.items()})

    def recv() -> Any:
        target.recv(src=peer)
        return target

    return lambda value: TensorDict(value).send(dst=peer), recv


CONTENDERS: dict[str, Callable[[int, Any], Ends]] = {
    OURS: channel,
    "torch send_object_list": object_list,
    "tensor dict (vLLM, SGLang)": tensor_dict,
    "tensordict init_remote": init_remote,
    "tensordict send, recv": in_place,
}


def missing(name: str, example: Any, changes: bool) -> str | None:
    """Return why a contender cannot carry a case, or None."""
    if name.startswith("tensordict"):
        try:
            import tensordict  # noqa: F401
        except ImportError as error:
            return str(error)
    if name == "tensordict send, recv" and changes:
        return "its receiver has to have the structure"
    try:
        if name.startswith("tensordict"):
            CONTENDERS[name](0, example)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None
