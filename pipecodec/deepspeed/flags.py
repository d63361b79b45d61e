"""Which leaves of a boundary nobody used: from the rank that ran backward to the one that will.

Where the engine's messages lie on the CPU, the tunnel's gradient says it. On a device the host
would have to wait for that, so flags go from host to host, a few bytes for each boundary and
micro-batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from .. import _C
from ..codec import TunnelCodec
from ..engine.stage_module import StageModule
from ..errors import bug

__all__ = ["Flags", "carry_flags"]

_TAG = 0x70636463
"""Tag of the first boundary's messages, unlike the engine's tags in the same group."""


class Flags(NamedTuple):
    """The actions that carry the flags of an engine's boundaries, as in :class:`.hooks.Hooks`."""

    before_backward: Callable[..., None]
    after_backward: Callable[..., None]
    after_schedule: Callable[[], None]
    schedule_failed: Callable[[], None]


def carry_flags(engine: Any, stages: Sequence[StageModule]) -> Flags:
    """Let a leaf that nobody used in a micro-batch have no gradient in the stage that sent it.

    A collective call. The graph behind such a leaf is left out of the backward pass, as if it had
    never been sent: its parameters keep their ``.grad``, and no hook of it is called.
    """
    by_phase = sorted(stages, key=lambda stage: stage.stage_id)  # DualPipeV has two, in this order
    owners = _owners(engine, by_phase[0].total_stages)
    read = _read_from_gradients(engine)
    group = None if read else _host_group()
    roads: dict[int, _Road] = {}

    def road(boundary: int) -> _Road:
        if boundary not in roads:
            if owners[boundary - 1] == owners[boundary]:
                roads[boundary] = _Inside()
            elif read:
                roads[boundary] = _InGradients()
            else:
                peer = {owners[boundary - 1], owners[boundary]} - {engine.global_rank}
                roads[boundary] = _Between(peer.pop(), _TAG + boundary, group)
        return roads[boundary]

    for stage in by_phase:
        if stage.stage_id > 0:
            if stage.incoming is None:
                raise bug("a stage behind the first one that receives nothing")
            road(stage.stage_id).tell(stage.incoming)
        if not stage.last:
            if stage.outgoing is None:
                raise bug("a stage before the last one that sends nothing")
            stage.outgoing.in_flight = deque()
            road(stage.stage_id + 1)

    def before_backward(buffer_id: int, phase: int = 0) -> None:
        stage = by_phase[phase]
        codec = stage.outgoing
        if stage.last or codec is None or codec.in_flight is None:
            return
        tunnel, sent = codec.in_flight.popleft()
        if len(tunnel) > 0:
            road = roads[stage.stage_id + 1]
            unused = road.take(tunnel, lambda: _gradient(engine, buffer_id))
            entered = sent() if unused else None
            if entered is not None:  # else it is sent again in its backward pass, without them
                _C.leave_out(entered, unused)
            codec.unused = unused

    def after_backward(buffer_id: int, phase: int = 0) -> None:
        stage = by_phase[phase]
        if not stage.last and stage.outgoing is not None:
            stage.outgoing.unused = None

    def finish() -> None:
        for each in roads.values():
            each.finish()

    def close() -> None:
        for each in roads.values():
            each.close()

    return Flags(before_backward, after_backward, finish, close)


class _Road(Protocol):
    """Carries one boundary's flags, in the order of its micro-batches."""

    def tell(self, receiver: TunnelCodec) -> None: ...

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _Inside:
    """Carries the flags of a boundary between two stages of this rank."""

    def __init__(self) -> None:
        self.posted: deque[list[int]] = deque()

    def tell(self, receiver: TunnelCodec) -> None:
        receiver.note_unused = lambda unused, tunnel: self.posted.append(unused)

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        return self.posted.popleft()

    def finish(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        self.posted.clear()


class _InGradients:
    """Carries flags in gradients, where those lie in memory of the host."""

    def tell(self, receiver: TunnelCodec) -> None:
        receiver.mark_unused = True

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        return tunnel.unused(gradient())

    def finish(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Nothing is kept."""


class _Between:
    """Carries the flags of a boundary to another rank, in messages."""

    PENDING = 32
    """Messages that may be on their way before one is waited for; the peer takes each at once."""

    def __init__(self, peer: int, tag: int, group: Any) -> None:
        self.peer, self.tag, self.group = peer, tag, group
        self.sending: deque[tuple[Any, bytearray]] = deque()

    def tell(self, receiver: TunnelCodec) -> None:
        receiver.note_unused = self._post

    def _post(self, unused: list[int], tunnel: _C.Tunnel) -> None:
        if len(self.sending) >= self.PENDING:
            self.sending.popleft()[0].wait()
        flags = _room(tunnel)
        for index in unused:
            flags[index] = 1
        message = torch.frombuffer(flags, dtype=torch.uint8)
        self.sending.append((dist.isend(message, self.peer, self.group(), self.tag), flags))

    def take(self, tunnel: _C.Tunnel, gradient: Any) -> Sequence[int]:
        flags = _room(tunnel)
        message = torch.frombuffer(flags, dtype=torch.uint8)
        dist.recv(message, self.peer, self.group(), self.tag)
        return [index for index, flag in enumerate(flags) if flag]

    def finish(self) -> None:
        """Wait for the messages of a batch, all taken before ranks meet at its end.

        torch's profiler writes down when each ends, and would do so in memory that it has freed if
        it was stopped before.
        """
        while self.sending:
            self.sending.popleft()[0].wait()

    def close(self) -> None:
        """Forget messages that were not taken: it would keep the connections of this rank open."""
        self.sending.clear()


def _read_from_gradients(engine: Any) -> bool:
    """Return whether the host may read this engine's gradients without waiting for a device."""
    return engine.device.type == "cpu"  # type: ignore[no-any-return]


def _room(tunnel: _C.Tunnel) -> bytearray:
    return bytearray(-(-len(tunnel) // 16) * 16)


def _host_group() -> Any:
    """Return a function that gives a group whose messages lie on the CPU; a collective call."""
    try:
        dist.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    except RuntimeError:
        # By its name: a rank that fails drops its groups, and so closes their connections.
        name = dist.new_group(backend="gloo").group_name
        return lambda: distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined]
    return lambda: None


def _owners(engine: Any, stages: int) -> list[int]:
    """Return the rank of each stage, in this rank's pipeline."""
    ranks = [engine.grid.stage_to_global(stage) for stage in range(engine.num_stages)]
    return ranks + ranks[::-1] if stages > len(ranks) else ranks


def _gradient(engine: Any, buffer_id: int) -> torch.Tensor:
    """Return the gradient of the tunnel that this micro-batch sent."""
    buffers = engine.pipe_buffers.get("grads")  # DualPipeV's
    gradients = engine.grad_layer if buffers is None else buffers[buffer_id]
    return gradients[0]  # type: ignore[no-any-return]
