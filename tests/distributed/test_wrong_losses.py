"""A loss that is no scalar tensor is said to be so on all ranks, and costs no engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .harness import values
from .stages import WIDTH

WRONG = {
    "is a float": lambda squares: squares.mean().item(),
    "is a NoneType": lambda squares: None,
    "is a dict": lambda squares: {"loss": squares.mean()},
    "is a tuple": lambda squares: (squares.mean(), squares.mean()),
    "has shape [4]": lambda squares: squares.mean(1),
    "has shape [0]": lambda squares: squares.mean(1)[:0],
    "has dtype int64": lambda squares: squares.mean().long(),
    "has dtype bool": lambda squares: squares.mean() > 0,
    "has dtype complex64": lambda squares: squares.mean().to(torch.complex64),
}

SETTINGS: dict[str, tuple[Grid, dict[str, Any]]] = {
    "fp32": (Grid(3), {}),
    "clipping": (Grid(2), {"gradient_clipping": 0.1}),
    "replicas, ZeRO-1": (Grid(2, replicas=2), {"zero_optimization": {"stage": 1}}),
    "bf16": (Grid(2), {"bf16": {"enabled": True}}),
    "bf16, ZeRO-1": (Grid(2), {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}),
    "fp16": (Grid(2), {"fp16": {"enabled": True, "initial_scale_power": 4}}),
    "checkpointing": (Grid(2), {"pipeline": {"activation_checkpoint_interval": 1}}),
    "checkpointing, not reentrant": (
        Grid(2),
        {"pipeline": {"activation_checkpoint_interval": 1, "use_reentrant": False}},
    ),
    "dualpipev": (Grid(4, schedule="dualpipev"), {}),
}


class Stage(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        return {"hidden": super().forward(hidden.to(self.weight.dtype)).tanh()}


class Last(Stage):
    def forward(self, hidden: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(hidden)["hidden"]


def batches(grid: Grid, step: int, *wrong: str | None) -> Iterator[tuple[Tensor, Any]]:
    """Yield micro-batches whose label is the kind of loss, the last ones those in ``wrong``."""
    for index in range(grid.accumulate):
        x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(10 * step + index))
        place = index - grid.accumulate + len(wrong)
        yield x, wrong[place] if place >= 0 else None


def loss_fn(output: Tensor, kind: str | None) -> Any:
    squares = output.float().square()
    return squares.mean() if kind is None else WRONG[kind](squares)


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def train(rank: Rank, setting: str, kinds: list[str]) -> Any:
    """Train and evaluate, with a batch of each wrong loss before each step."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda self=None: True
    grid, config = SETTINGS[setting]
    torch.manual_seed(0)
    stages = [Stage() for _ in range(grid.stages - 1)] + [Last()]
    engine = engine_for(
        stages,
        grid,
        inputs=["hidden"],
        loss_fn=loss_fn,
        config=config,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    )
    # Only the first replica's loss is wrong.
    own = engine.grid.get_data_parallel_rank() == 0
    found, said = [], []
    for step in range(3):
        for kind in kinds:
            wrong = (kind, None) if own else ()
            said.append(refused(engine.train_batch, batches(grid, 50, *wrong)))
            if step == 1:
                said.append(refused(engine.eval_batch, batches(grid, 50, *wrong)))
        found.append(engine.train_batch(batches(grid, step)).item())
        if step == 1:
            found.append(engine.eval_batch(batches(grid, 40)).item())
    weights = [p.tolist() for p in engine.module.parameters()]
    assert engine.global_steps == 3
    return found, weights, said


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_engine_trains_on_as_if_the_batch_had_not_been(setting: str) -> None:
    kinds = list(WRONG) if setting == "fp32" else ["is a float", "has shape [4]"]
    grid = SETTINGS[setting][0]
    undisturbed = values(train, grid.processes, setting, [])
    disturbed = values(train, grid.processes, setting, kinds)
    expected = [kind for step in range(3) for kind in kinds for _ in range(1 + (step == 1))]
    for (found, weights, said), (losses, others, _) in zip(disturbed, undisturbed, strict=True):
        assert found == losses and weights == others
        assert len(said) == len(expected)
        for text, kind in zip(said, expected, strict=True):
            assert text.startswith(f"the loss {kind}; return one number for a micro-batch")


def evaluations(rank: Rank) -> Any:
    """Evaluate with losses that only the last stage needs to understand."""
    grid = Grid(2)
    torch.manual_seed(0)
    engine = engine_for([Stage(), Last()], grid, inputs=["hidden"], loss_fn=loss_fn, config={})
    said = [
        refused(engine.eval_batch, batches(grid, 0), reduce_output=None),
        refused(engine.eval_batch, batches(grid, 0), reduce_output="sum"),
    ]
    listed = engine.eval_batch(batches(grid, 0), reduce_output=None, bcast_loss=False)
    vector = ["has shape [4]"] * grid.accumulate
    mean = engine.eval_batch(batches(grid, 0, *vector), bcast_loss=False)
    scalar = engine.eval_batch(batches(grid, 0))
    if rank.rank == 0:
        assert listed is None and mean is None
    else:
        assert len(listed) == grid.accumulate
        torch.testing.assert_close(torch.stack(listed).mean(), scalar)
        assert mean.shape == (4,)
        torch.testing.assert_close(mean.mean(), scalar)
    return said


def test_an_evaluation_refuses_a_reduction_before_it_runs() -> None:
    for said in values(evaluations, 2):
        assert "pass bcast_loss=False as well" in said[0]
        assert "reduce_output='sum' is no reduction" in said[1]
