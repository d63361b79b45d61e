"""Writes the forward of a stage of which several observations have a way of their own."""

from __future__ import annotations

from collections.abc import Sequence

from .code import Code

__all__ = ["OBSERVATION", "choosing", "dispatching"]

OBSERVATION = "pipecodec_observation"
"""The name of the number, sent with the values, of the observation that a batch is like."""


def choosing(required: Sequence[str], optional: Sequence[str]) -> Code:
    """Return the forward of the first stage, which finds out the observation."""
    values = ", ".join(f"{name!r}: {name}" for name in (*required, *optional))
    lines = [_head(required, optional), f"    return self.run({{{values}}})"]
    return Code("choice of a way", "\n".join(lines) + "\n", {})


def dispatching(
    required: Sequence[str],
    optional: Sequence[str],
    takes: Sequence[Sequence[str]],
    absent: Sequence[Sequence[str]] | None,
) -> Code:
    """Return the forward of another stage, which was told the observation.

    Way k takes the values ``takes[k]`` and gives None for ``absent[k]``, which other ways give.
    With `absent` None the ways return the model's output.
    """
    lines = [_head(required, optional), "    runs = self.runs"]
    for k, names in enumerate(takes):
        call = f"runs[{k}](self, {', '.join(names)})"
        if absent is not None and absent[k]:
            call = "{" + "".join(f"{name!r}: None, " for name in absent[k]) + f"**{call}}}"
        last = k == len(takes) - 1
        lines.append(f"    return {call}" if last else f"    if {OBSERVATION} == {k}:")
        if not last:
            lines.append(f"        return {call}")
    return Code("way of an observation", "\n".join(lines) + "\n", {})


def _head(required: Sequence[str], optional: Sequence[str]) -> str:
    parameters = ["self", *required, *(f"{name}=None" for name in optional)]
    return f"def run({', '.join(parameters)}):"
