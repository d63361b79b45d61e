"""Runs a partition on batches and describes its boundaries, with all that fails there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..cutting.untouched import untouched
from ..stages.partition import Partition
from .crossings import Leaf, Packed, Packer, own_leaves
from .facts import Boundary, Crossing, Problem
from .gradients import used_tensors
from .local_run import At, Failure, run_stages
from .naive import leaf_rules, messages, tuple_rules
from .passing import passing_values
from .pp_plan import omitted_by_plan, watched_layers
from .unseen import prices, users_of

__all__ = ["Batch", "observe"]

Batch = tuple[Sequence[Any], Mapping[str, Any]]
Seen = list[tuple[At, Packed]]


_NO_LOSS = (
    "the model returned no loss (loss is None): training needs loss_fn=, or labels in every batch "
    "and in the one that partition observes"
)


def observe(
    part: Partition, batches: Sequence[Batch]
) -> tuple[list[Boundary], list[Problem], list[str]]:
    """Run all stages on each batch; return the first one's boundaries, all problems, and notes."""
    packers = [Packer(k) for k in range(len(part.stages) - 1)]
    problems: list[Problem] = []
    runs: list[Seen] = []
    output: Any = None
    used: dict[int, bool] = {}
    for number, (args, kwargs) in enumerate(batches):
        seen: Seen = []

        def look(at: At, seen: Seen = seen) -> Sequence[Any]:
            seen.append((at, packers[at.boundary].look_at(at.values)))
            return seen[-1][1].passed

        with (
            untouched(nn.ModuleList(part.stages)),
            torch.enable_grad(),
            watched_layers(part) as calls,
        ):
            result = run_stages(part, args, kwargs, look)
            if number == 0 and not isinstance(result, Failure):
                output, layer_calls = result, calls
                try:
                    used = used_tensors(output, _tensors(seen))
                except Exception as error:
                    problems.append(
                        Problem(
                            None,
                            f"backward {_shown(error)}",
                            "mend it first; which values get a gradient is unknown",
                        )
                    )
        problems += _faults(number, seen, result)
        runs.append(seen)
    pairs = [_pairs(part, runs, k, used) for k in range(len(runs[0]))]
    if output is not None:
        problems += passing_values(output, pairs)
        problems += omitted_by_plan(layer_calls, pairs)
    notes = [_NO_LOSS] if output is not None and getattr(output, "loss", "") is None else []
    return [_boundary(part, runs[0], k, pairs[k]) for k in range(len(pairs))], problems, notes


def _tensors(seen: Seen) -> list[torch.Tensor]:
    leaves = [leaf for _, packed in seen for leaf in packed.leaves]
    return [leaf.received for leaf in leaves if leaf.received is not None]


def _faults(number: int, seen: Seen, result: Any) -> Iterator[Problem]:
    which = f" (batch {number} of more=)" if number else ""
    for at, packed in seen:
        for text in packed.faults:
            fault, _, remedy = text.partition("; ")
            yield Problem(at.boundary, fault + which, remedy)
    if isinstance(result, Failure):
        yield Problem(
            result.stage,
            f"it {_shown(result.error)}{which}",
            "mend it first; nothing after it could be looked at with this batch",
        )


def _shown(error: Exception) -> str:
    return f"raises {type(error).__name__}: {str(error).strip()}"


def _pairs(
    part: Partition, runs: Sequence[Seen], k: int, used: Mapping[int, bool]
) -> list[tuple[Crossing, Leaf]]:
    """Return each leaf of the first batch at boundary `k`, described."""
    at, packed = runs[0][k]
    others = [{leaf.path: leaf for leaf in run[k][1].leaves} for run in runs[1:] if len(run) > k]
    remade = {(n, made) for later, _ in runs[0] for n, made in later.made_by.items() if made}
    names = [name.partition("@")[0] for name in at.values]
    users = {name: users_of(part, name, k, remade) for name in names}
    pairs = [
        (_crossing(part, at, leaf, users[leaf.name], others, used), leaf) for leaf in packed.leaves
    ]
    last = (len(part.stages) - 1,)
    owned = own_leaves(at.own)
    return pairs + [(_crossing(part, at, leaf, last, (), {}), leaf) for leaf in owned]


def _crossing(
    part: Partition,
    at: At,
    leaf: Leaf,
    users: tuple[int, ...],
    others: Sequence[Mapping[str, Leaf]],
    used: Mapping[int, bool],
) -> Crossing:
    cut = part.cut
    gradient = leaf.travels == "tunnel" and not leaf.alias
    varies = any(_differ(leaf, other.get(leaf.path)) for other in others) if others else None
    needed = used.get(id(leaf.received)) if gradient else None
    static = leaf.travels == "number" and varies is False
    return Crossing(
        name=leaf.name,
        path=leaf.path,
        kind=leaf.kind,
        dtype=leaf.dtype,
        shape=leaf.shape,
        nbytes=leaf.nbytes,
        travels="static number" if static else leaf.travels,
        gradient=gradient,
        used=needed,
        used_by=users,
        made_by=at.made_by.get(leaf.name),
        maker=None if cut is None else cut.makers.get(leaf.name),
        varies=varies,
        rules=leaf_rules(leaf, needed, varies),
    )


def _differ(leaf: Leaf, other: Leaf | None) -> bool:
    if other is None or leaf.kind != other.kind:
        return True
    return (leaf.dtype, leaf.shape, leaf.text) != (other.dtype, other.shape, other.text)


def _boundary(
    part: Partition, seen: Seen, k: int, pairs: Sequence[tuple[Crossing, Leaf]]
) -> Boundary:
    packed = seen[k][1]
    following = seen[k + 1][1].leaves if k + 1 < len(seen) else None
    return Boundary(
        k,
        tuple(crossing for crossing, _ in pairs),
        (len(packed.sizes), 1) if packed.sizes else None,
        (sum(packed.sizes), packed.sizes[0]) if packed.sizes else None,
        messages(packed.leaves),
        tuple_rules(packed.leaves, following),
        *prices(part, k),
    )
