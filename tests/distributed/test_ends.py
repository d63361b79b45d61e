"""Where a pipeline ends: whatever the last stage returns, with a loss and without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import CausalLMOutput

from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .harness import values
from .stages import WIDTH

GRID = Grid(2)

FORMS = {
    "tensor": lambda logits, hidden, loss: logits,
    "tuple": lambda logits, hidden, loss: (logits, hidden),
    "dict": lambda logits, hidden, loss: {"logits": logits, "names": ["a"], "none": None},
    "ModelOutput": lambda logits, hidden, loss: CausalLMOutput(loss=loss, logits=logits),
}

LOGITS = {
    "tensor": lambda output: output,
    "tuple": lambda output: output[0],
    "dict": lambda output: output["logits"],
    "ModelOutput": lambda output: output.logits,
}


class First(nn.Linear):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"hidden": super().forward(x)}


class Last(nn.Linear):
    def __init__(self, form: str) -> None:
        super().__init__(WIDTH, WIDTH)
        self.form = form

    def forward(self, hidden: Tensor, labels: Tensor) -> Any:
        logits = super().forward(hidden)
        return FORMS[self.form](logits, hidden, functional.mse_loss(logits, labels))


def batches() -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(3)
    one, two = (torch.randn(4, WIDTH, generator=random) for _ in range(2))
    return [{"x": one * (i + 1), "labels": two} for i in range(GRID.accumulate)]


def stages(form: str) -> list[nn.Module]:
    torch.manual_seed(4)
    return [First(WIDTH, WIDTH), Last(form)]


def ends(rank: Rank, form: str, own_loss: bool, interval: int) -> Any:
    """Train, evaluate without a loss, and train, then evaluate with one."""

    def loss_fn(output: Any, labels: Tensor) -> Tensor:
        return functional.mse_loss(LOGITS[form](output), labels)

    engine = engine_for(
        stages(form),
        GRID,
        inputs=["x", "labels"],
        loss_fn=None if own_loss else loss_fn,
        config={"pipeline": {"activation_checkpoint_interval": interval}},
    )
    losses = [engine.train_batch(iter(batches())).item()]
    outputs = engine.eval_batch(iter(batches()), compute_loss=False)
    both = engine.eval_batch(iter(batches()), compute_loss=False, return_logits=True)
    losses.append(engine.train_batch(iter(batches())).item())
    losses.append(engine.eval_batch(iter(batches())).item())
    if rank.rank == 0:
        assert outputs is None and both == (None, None)
        return losses
    assert [type(output) for output in outputs] == [type(both[1])] * GRID.accumulate
    assert all(not LOGITS[form](output).requires_grad for output in outputs)
    assert torch.equal(LOGITS[form](both[1]), LOGITS[form](outputs[-1]))
    return losses, [LOGITS[form](output).tolist() for output in outputs]


def whole(rank: Rank) -> Any:
    first, last = stages("tensor")
    optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.1)

    def run(batch: dict[str, Tensor]) -> Tensor:
        output: Tensor = last(first(batch["x"])["hidden"], batch["labels"])
        return output

    def losses() -> list[Tensor]:
        return [functional.mse_loss(run(batch), batch["labels"]) for batch in batches()]

    found, outputs = [], []
    for step in range(3):
        own = losses()
        found.append((sum(loss.detach() for loss in own) / len(own)).item())
        if step == 1:
            outputs = [run(batch).tolist() for batch in batches()]
        if step < 2:
            for loss in own:
                (loss / len(own)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return found, outputs


def test_an_output_of_any_form_is_evaluated_without_a_loss() -> None:
    """A dict ended in "'str' object has no attribute 'detach'", and the engine was lost."""
    (expected,) = values(whole, 1)
    for form in FORMS:
        assert values(ends, 2, form, False, 0) == [expected[0], expected], form


@pytest.mark.parametrize("interval", [0, 1])
def test_without_a_loss_function_the_loss_is_the_models_own(interval: int) -> None:
    (expected,) = values(whole, 1)
    assert values(ends, 2, "ModelOutput", True, interval) == [expected[0], expected]
