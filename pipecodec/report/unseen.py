"""Boundaries of stages that cannot be run: liveness, and the values that were observed."""

from __future__ import annotations

from collections.abc import Collection

from .. import _C
from ..stages.liveness import arg_name
from ..stages.local_inputs import find_local_inputs
from ..stages.partition import Partition
from .facts import Boundary, Crossing

__all__ = ["boundaries_of_cut", "prices", "users_of"]


def users_of(
    part: Partition, name: str, boundary: int, remade: Collection[tuple[str, int]] = ()
) -> tuple[int, ...]:
    """Return the stages after `boundary` whose forward takes a value, or an item of it.

    `remade` holds (name, stage) where an undeclared stage gave the name to another value.
    """
    users = []
    for k in range(boundary + 1, len(part.stages)):
        taken = map(arg_name, part.stage_id_2_arg_names[k])
        if any(_overlap(name, each) for each in taken):
            users.append(k)
        given = part.outputs[k]
        if (name, k) in remade or name in ([given] if isinstance(given, str) else given or ()):
            break  # another value has this name from here on
    return tuple(users)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def prices(part: Partition, boundary: int) -> tuple[int | None, int | None]:
    """Return the bytes that cross if masks and the like are sent, and if they are recomputed."""
    cut = part.cut
    if cut is None:
        return None, None
    sent, recomputed = (
        sum(value.nbytes for value in cut.crossing[way][boundary].values())
        if way in cut.crossing
        else None
        for way in ("send", "recompute")
    )
    return sent, recomputed


def boundaries_of_cut(part: Partition) -> list[Boundary]:
    """Describe the boundaries by liveness, and by the cut's observation if there is one."""
    cut = part.cut
    way = "recompute" if cut is not None and cut.recomputed else "send"
    local = find_local_inputs(part.liveness, part.stage_id_2_arg_names, part.outputs)
    boundaries = []
    for k in range(len(part.stages) - 1):
        seen = cut.crossing[way][k] if cut is not None and way in cut.crossing else {}
        crossings = []
        for name in part.liveness[k + 1]:
            value = seen.get(name)
            tensor = None if value is None or value.dtype is None else value
            travels = "unknown"
            if tensor is not None:
                travels = "frame" if tensor.nbytes <= _C.SMALL_LEAF else "own message"
                travels = "tunnel" if tensor.requires_grad else travels
            if name not in local.liveness[k + 1]:
                travels = "own batch"
            crossings.append(
                Crossing(
                    name=name,
                    path=name,
                    kind="unknown" if tensor is None else "tensor",
                    dtype=None if tensor is None else str(tensor.dtype).removeprefix("torch."),
                    shape=None if tensor is None else tuple(tensor.shape),
                    nbytes=0 if value is None else value.nbytes,
                    travels=travels,
                    gradient=value is not None and value.requires_grad,
                    used=None,
                    used_by=users_of(part, name, k),
                    made_by=_declared_by(part, name, k),
                    maker=None if cut is None else cut.makers.get(name),
                    varies=None,
                    rules=(),
                )
            )
        boundaries.append(Boundary(k, tuple(crossings), None, None, None, (), *prices(part, k)))
    return boundaries


def _declared_by(part: Partition, name: str, boundary: int) -> int | None:
    for k in range(boundary, -1, -1):
        given = part.outputs[k]
        if name in ([given] if isinstance(given, str) else given or ()):
            return k
        if name == f"submod_{k}" or name.startswith(f"submod_{k}."):
            return k
    return None
