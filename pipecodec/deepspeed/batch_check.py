"""A batch with a wrong loss or unequal inputs is dropped on all ranks, and the engine goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..arguments import instance
from ..engine.same_batches import SameBatches
from ..engine.stage_module import StageModule
from ..engine.together import on_all_ranks, raise_on_all_ranks

__all__ = ["check_data_iter", "drop_wrong_batches"]


def check_data_iter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ``TypeError`` if the first argument of a batch's method is no iterator, nor None."""
    given = args[0] if args else kwargs.get("data_iter")
    must = "an iterator of micro-batches, such as iter(loader)"
    instance("data_iter", given, (Iterator, type(None)), must)


def drop_wrong_batches(
    engine: Any,
    stages: Sequence[StageModule],
    same: SameBatches,
    meet: Callable[[Sequence[int]], Sequence[int]],
) -> Callable[[], None]:
    """Return a check that raises ``ValueError`` on all ranks if a batch must not be trained on.

    That is one with a loss that is no scalar tensor, or whose inputs differ between the first and
    the last stage, see ``same``. All ranks call it before gradients are reduced; ``meet(numbers)``
    gives the sums over all ranks. After a wrong loss the last of the ``stages`` goes on from zero
    until then, so that no rank waits. The gradients are dropped: the next batch trains as if this
    one had not been.
    """
    problems: list[str] = []
    for stage in stages:
        if stage.ending is not None:
            stage.ending.wrong_losses = problems

    def check() -> None:
        wrong, *sums = meet([bool(problems), *same.numbers()])
        difference = same.problem(sums)
        if not wrong and difference is None:
            return
        problem = problems[0] if problems else None
        if torch.is_grad_enabled():
            engine.zero_grad()
            if engine.optimizer is not engine.basic_optimizer:
                engine.optimizer.zero_grad()
            engine.timers("train_batch").reset()
        if difference is not None:
            raise on_all_ranks(ValueError(difference))
        raise_on_all_ranks(problem)

    return check
