"""The results of both ways beside one process, as values and as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.origin.training import MICRO_BATCHES, STAGES, STEPS
from pipecodec.demo.launch import Outcome

__all__ = ["ROUNDING", "Result", "as_table", "judge"]

ROUNDING = 1e-6
"""The largest difference in loss that is called rounding: tied gradients are summed elsewhere."""

_CONSEQUENCE = re.compile("[Cc]onnection|RemoteError|another rank")


@dataclass(frozen=True)
class Result:
    """The end of one way: the largest difference in loss, and in weights, or its error."""

    loss: float = float("nan")
    weights: float | None = None
    error: str = ""

    @property
    def trains(self) -> bool:
        """Whether it trained as one process does, but for rounding."""
        return not self.error and self.loss <= ROUNDING

    @property
    def exact(self) -> bool:
        """Whether all losses, and all weights where they are known, are equal to the last bit."""
        return not self.error and self.loss == 0.0 and not self.weights

    def __str__(self) -> str:
        if self.error:
            return f"`{self.error}`"
        if self.exact:
            return "bit for bit"
        verdict = "trains, losses within" if self.trains else "trains wrong, losses off by"
        return f"{verdict} {self.loss:.2g}"


def judge(ended: Sequence[Outcome], losses: Sequence[float], weights: dict[str, Any]) -> Result:
    """Compare what all ranks returned with the losses and weights of one process."""
    failed = [outcome for outcome in ended if outcome.status not in ("ok", "killed")]
    if failed:
        # The ranks beside the one that failed tell of its lost connection.
        causes = [outcome for outcome in failed if not _CONSEQUENCE.search(_last(outcome))]
        return Result(error=_last((causes or failed)[0]))
    if any(outcome.status != "ok" for outcome in ended):
        return Result(error="ended without a word")
    largest = max(float(np.max(np.abs(np.subtract(outcome.value[0], losses)))) for outcome in ended)
    apart = [
        float(np.max(np.abs(value - weights[name])))
        for outcome in ended
        for name, value in outcome.value[1].items()
    ]
    return Result(largest, max(apart, default=None))


def _last(outcome: Outcome) -> str:
    lines = [line for line in outcome.detail.strip().splitlines() if line.strip()]
    text = lines[-1].strip() if outcome.status == "error" and lines else ""
    return f"{text} (rank {outcome.rank})" if text else f"rank {outcome.rank}: {outcome.status}"


def as_table(results: Sequence[tuple[str, Result, Result]]) -> str:
    """Return the figure in a sentence, and a table of models: the origin's way, and pipecodec."""
    origin = sum(result.trains for _, result, _ in results)
    ours = sum(result.trains for _, _, result in results)
    exact = sum(result.exact for _, _, result in results)
    lines = [
        f"Of {len(results)} models that torch's splitter cuts, the origin's plumbing trains "
        f"{origin} on DeepSpeed's own engine, and pipecodec {ours}, {exact} of them bit for bit "
        f"({STAGES} stages in {STAGES} processes, {STEPS} steps of {MICRO_BATCHES} micro-batches, "
        f"AdamW, float32).",
        "",
        "| model | origin's plumbing | pipecodec |",
        "|---|---|---|",
        *(f"| {name} | {theirs} | {own} |" for name, theirs, own in results),
    ]
    return "\n".join(lines)
