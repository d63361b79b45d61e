"""All ranks compare their settings, and tied weights, once before anything of theirs is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist

from .error_text import summary, transportable
from .tie_check import checksum, local_part
from .together import gathered, on_all_ranks

__all__ = ["OBSERVED_MODEL", "agree", "agree_on_copies"]

OBSERVED_MODEL = "the model as it was observed and cut"

_VALUE = 2000
"""Characters of a setting that a message shows."""

_ADVICE = {
    OBSERVED_MODEL: "build one model on all ranks and cut it with one batch; if its code loops "
    "over a set, whose order differs between processes, loop over sorted(...) instead"
}


class Copy(Protocol):
    """A tied weight as one stage has it."""

    @property
    def weight(self) -> torch.Tensor:
        """The parameter; ``AttributeError`` if there is none."""


def agree(describe: Callable[[], Mapping[str, Any]], group: Any = None) -> None:
    """Return if ``describe()`` is equal on all ranks; its keys name the settings in messages.

    A collective call of the ranks in ``group``, None: of all. Raises ``ValueError``, the same on
    every rank, with the first setting that differs, its values, and the ranks that have each of
    them. If ``describe`` raises, that rank raises its error, and the others a ``ValueError`` with
    its text.
    """
    if not dist.is_initialized():
        raise ValueError(
            "the ranks cannot compare their settings before torch.distributed is initialized; "
            "with DeepSpeed call deepspeed.init_distributed() first"
        )
    settings, error = {}, None
    try:
        settings = dict(describe())
    except Exception as caught:
        error = caught
    everyone = gathered(group, (settings, None if error is None else summary(error)))
    if error is not None:
        raise on_all_ranks(error)
    for rank, (_, failure) in everyone.items():
        if failure is not None:
            raise on_all_ranks(ValueError(f"rank {rank} cannot be set up: {failure}"))
    for name in dict.fromkeys(name for theirs, _ in everyone.values() for name in theirs):
        values = {rank: theirs.get(name, "nothing") for rank, (theirs, _) in everyone.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            advice = _ADVICE.get(name, "give all ranks the same")
            raise on_all_ranks(ValueError(f"ranks differ in {name}: {_by_value(values)}; {advice}"))


def agree_on_copies(
    held: Sequence[Mapping[str, Copy]],
    fibres: Sequence[Sequence[Sequence[int]]],
    group: Any = None,
    *,
    values: bool = False,
) -> None:
    """Return if the copies of every tied weight have one shape, dtype and ``requires_grad``.

    With ``values`` also the same ones. A collective call of the ranks in ``group``, None: of all.
    ``held`` has for each weight the copies of this rank by name, ``fibres`` the groups of ranks
    that hold one weight together. Raises ``ValueError``, the same on every rank.
    """
    mine = [{name: _described(copy, values) for name, copy in copies.items()} for copies in held]
    everyone = gathered(group, mine)
    for index, groups in enumerate(fibres):
        for ranks in groups:
            copies = [
                (f"{name} on rank {rank}", properties)
                for rank in ranks
                for name, properties in everyone[rank][index].items()
            ]
            for name, properties in copies:
                if not properties:
                    raise ValueError(
                        f"a tied weight has no parameter {name}; partition the stages after they "
                        f"were wrapped or given adapters, or correct its path"
                    )
            for what in copies[0][1]:
                if len({properties[what] for _, properties in copies}) > 1:
                    each = "; ".join(
                        f"{properties[what]} for {name}" for name, properties in copies
                    )
                    raise ValueError(
                        f"the copies of a tied weight differ in {what}: {each}; "
                        "make them the same, or give the stages weights of their own"
                    )


def _described(copy: Copy, values: bool) -> dict[str, str]:
    try:
        weight = copy.weight
    except AttributeError:
        return {}
    described = {
        "shape": str(list(weight.shape)),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "requires_grad": str(weight.requires_grad),
    }
    if values:
        described["their values"] = f"checksum {int(checksum(local_part(weight))):x}"
    return described


def _by_value(values: Mapping[int, Any]) -> str:
    ranks: dict[str, list[str]] = {}
    for rank, value in values.items():
        ranks.setdefault(value if isinstance(value, str) else repr(value), []).append(str(rank))
    return "; ".join(
        f"{transportable(value, _VALUE)} on rank{'s' * (len(who) > 1)} {', '.join(who)}"
        for value, who in ranks.items()
    )
