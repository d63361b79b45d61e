"""``python -m tests.distributed.stock``: the rows of the table as plain tuples, without pipecodec.

Prints, as a table for docs/symptoms/index.md, how DeepSpeed's engine takes each of them when the
stages send their values flattened into a tuple, as one would by hand. Every row runs in 3 processes
of its own; one that hangs takes 20 seconds.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from pipecodec.demo.launch import Outcome, Rank

from .engines import Grid, join, loss_fn, sgd
from .harness import outcomes, values
from .rows import ROWS
from .stages import Row, build
from .table import RowTraining, micro_batches, whole_rows

__all__: list[str] = []

GRID, STEPS = Grid(3), RowTraining.steps


class Plain(nn.Module):
    """A stage that takes and gives a flat tuple; which value is where is known beforehand."""

    def __init__(
        self, stage: nn.Module, taken: Any, names: Sequence[str], given: Sequence[str]
    ) -> None:
        super().__init__()
        self.stage, self.taken, self.names, self.given = stage, taken, names, given

    def forward(self, inputs: Any) -> Any:
        leaves = list(inputs) if isinstance(inputs, tuple) else [inputs]
        values = dict(zip(self.names, pytree.tree_unflatten(leaves, self.taken), strict=True))
        output = self.stage(
            **{name: values[name] for name in inspect.signature(self.stage.forward).parameters}
        )
        if not isinstance(output, dict):
            return output
        return tuple(flat([{**values, **output}[name] for name in self.given])[0])


def flat(value: Any) -> tuple[list[Any], Any]:
    return pytree.tree_flatten(value, is_leaf=lambda part: part is None)


def plain_stages(row: Row, model: nn.ModuleList) -> list[Plain]:
    """Run the model once to see its boundaries' values, and wrap its stages."""
    names, given = ["x", "ids"], ["hidden", "value"]
    values: dict[str, Any] = next(micro_batches(row, GRID, 0))
    stages = []
    for stage in build(row, GRID.stages):
        taken = flat([values[name] for name in names])[1]
        stages.append(Plain(model[len(stages)], taken, names, given))
        arguments = inspect.signature(stage.forward).parameters
        output = stage(**{name: values[name] for name in arguments})
        values = {**values, **output} if isinstance(output, dict) else values
        names = given
    return stages


def train(rank: Rank, name: str) -> list[float]:
    import deepspeed
    from deepspeed import pipe

    join()
    row = ROWS[name]
    module = pipe.PipelineModule(
        plain_stages(row, build(row, GRID.stages)),
        topology=GRID.topology(),
        loss_fn=loss_fn,
        partition_method="uniform",
        dynamic_shape=row.options.get("dynamic_shape", False),
    )
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=[p for p in module.parameters() if p.requires_grad],
        optimizer=sgd,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": GRID.accumulate,
            "gradient_clipping": 0.0,
            "steps_per_print": None,
            **row.config,
        },
    )

    def batches(step: int, evaluate: bool) -> Any:
        for batch in micro_batches(row, GRID, step, evaluate=evaluate):
            yield (batch["x"], batch["ids"]), batch["labels"]

    losses = []
    for step in range(STEPS + 1):
        if step in row.evaluate:
            losses.append(engine.eval_batch(batches(step, True)).item())
        if step < STEPS:
            losses.append(engine.train_batch(batches(step, False)).item())
    return losses


def verdict(ended: list[Outcome], expected: list[float]) -> str:
    """Say how the stock engine took a row, in the words of the rank that knows best."""
    if all(outcome.status == "ok" for outcome in ended):
        wrong = [o.value for o in ended if sorted(o.value) != sorted(expected)]
        return "**wrong losses, no error**" if wrong else "right"
    errors = [o for o in ended if o.status == "error" and "gloo/transport" not in o.detail]
    if errors:
        return f"`{last_line(errors[0].detail)}`"
    for outcome in ended:
        if outcome.status == "died":
            code = re.match(r"exit code (-?\d+)", outcome.detail)
            return f"the process dies (exit code {code[1] if code else '?'})"
    hung = [outcome for outcome in ended if outcome.status == "hang"]
    return "**hangs**" if hung else f"`{last_line(ended[0].detail)}`"


def last_line(detail: str) -> str:
    """Return a traceback's error; of an assertion without a message, its condition."""
    lines = [line for line in detail.splitlines() if line.strip(" ^~")]
    error = [line for line in lines if not line.startswith(" ")][-1]
    if error == "AssertionError":
        error += f": {lines[lines.index(error) - 1].strip()}"
    return error if len(error) < 110 else error[:107] + "..."


def main() -> None:
    """Run every row, and print the table."""
    (whole,) = values(whole_rows, 1, "kinds", GRID)
    print("| value | plain tuples on DeepSpeed's engine |\n|---|---|")
    for name in ROWS:
        ended = outcomes(train, GRID.stages, name, timeout=20.0)
        expected = whole[name].losses + whole[name].evaluations
        print(f"| {name} | {verdict(ended, expected)} |", flush=True)


if __name__ == "__main__":
    main()
