"""Guards numbers that Python took for a use that cannot be seen.

``range(n // 4)`` and ``table[n]`` ask a number for nothing. Where the number had several values in
the observations, the tapes would differ. Where it had one, another could lead anywhere.
"""

from __future__ import annotations

from .arguments import Argument, Const
from .tape import Out, Step, Tape, sizes_at, step_of

__all__ = ["guard_unseen"]


def guard_unseen(tape: Tape) -> None:
    """Have a tape hold only where numbers that no call takes, and that never varied, are equal."""
    seen, steps = tape.used | tape.varied, list[Step]()
    for step in tape.steps:
        steps.append(step)
        unseen = [out for out in step.outs if _is_unseen(tape, out, seen)]
        if unseen and not unseen[0].path:
            step.expect = (tape.facts[unseen[0].key],)
        elif unseen:
            tensor = step.args.children[0].children[0]  # type: ignore[union-attr]
            sizes = {out.path[0]: tape.facts[out.key] for out in unseen}
            steps.append(_guard(tensor, sizes, step.place))
    tape.steps = steps


def _is_unseen(tape: Tape, out: Out, seen: set[int]) -> bool:
    number = isinstance(tape.facts[out.key], (int, float))
    return out.where == "result" and number and out.key not in seen


def _guard(tensor: Argument, sizes: dict[int, int], place: str) -> Step:
    guard = step_of(sizes_at, [tensor, Const(tuple(sizes))])
    guard.expect, guard.place = (tuple(sizes.values()),), place
    return guard
