"""A loss that nothing trainable reaches raises torch's error, on all ranks and in training only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .harness import outcomes, values

WIDTH, BATCH, STEPS = 8, 4, 2
TEXT = "element 0 of tensors does not require grad and does not have a grad_fn"


class Embed(nn.Module):
    def __init__(self, need: bool) -> None:
        super().__init__()
        self.table, self.need = nn.Embedding(10, WIDTH), need

    def forward(self, ids: Tensor) -> dict[str, Any]:
        hidden = self.table(ids)
        # As transformers' enable_input_require_grads does it in a hook.
        return {"hidden": hidden.requires_grad_() if self.need else hidden}


class Block(nn.Module):
    """A frozen layer with an adapter, checkpointed within the stage as transformers does it."""

    def __init__(self, within: bool) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.adapter, self.within = nn.Linear(WIDTH, WIDTH, bias=False), within

    def layer(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.base(hidden) + self.adapter(hidden))

    def forward(self, hidden: Tensor) -> dict[str, Any]:
        if self.within and self.training:
            return {"hidden": checkpoint(self.layer, hidden, use_reentrant=True)}
        return {"hidden": self.layer(hidden)}


class End(Block):
    """Ends in an output, part of which is detached, or in the loss itself."""

    def __init__(self, within: bool, ends: str) -> None:
        super().__init__(within)
        self.ends = ends

    def forward(self, hidden: Tensor) -> Any:
        out = super().forward(hidden)["hidden"].mean(1)
        if self.ends == "loss":
            return out.detach().square().mean()
        if self.ends == "pair":
            return out, out.detach() * 2
        return out.detach() if self.ends == "detached" else out


def detached(output: Tensor, target: Tensor) -> Tensor:
    return (output.detach() - target).square().mean()


def plain(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def of_second(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return plain(output[1], target)


def of_first(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return plain(output[0], target)


@dataclass(frozen=True)
class Case:
    loss_fn: Any = plain
    frozen: tuple[int, ...] = (0,)
    need: bool = False
    within: bool = False
    ends: str = "output"
    options: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)

    def build(self) -> list[nn.Module]:
        torch.manual_seed(4)
        stages = [Embed(self.need), Block(self.within), End(self.within, self.ends)]
        for index in self.frozen:
            stages[index].requires_grad_(False)
        return stages


ALL = (0, 1, 2)
REENTRANT = {"activation_checkpoint_interval": 1}
NON_REENTRANT = {"activation_checkpoint_interval": 1, "use_reentrant": False}
BY_DTYPE = {"differentiable": "by-dtype"}

RAISES = {
    "detached loss": Case(detached),
    "all frozen": Case(frozen=ALL),
    "the output is the loss": Case(None, ends="loss"),
    "the output is the loss, recomputed": Case(None, ends="loss", pipeline=REENTRANT),
    "detached loss, recomputed": Case(detached, pipeline=REENTRANT),
    "detached output, recomputed": Case(ends="detached", pipeline=REENTRANT),
    "detached half, recomputed": Case(of_second, ends="pair", pipeline=REENTRANT),
    "detached half, not reentrant": Case(of_second, ends="pair", pipeline=NON_REENTRANT),
    "all frozen, recomputed": Case(frozen=ALL, pipeline=REENTRANT),
    "all frozen, by dtype": Case(frozen=ALL, options=BY_DTYPE),
    "checkpointing within, behind a frozen stage": Case(within=True),
}

TRAINS = {
    "attached half, recomputed": Case(of_first, ends="pair", pipeline=REENTRANT),
    "attached half, not reentrant": Case(of_first, ends="pair", pipeline=NON_REENTRANT),
    "checkpointing within, input requires one": Case(need=True, within=True),
    "the same, recomputed": Case(need=True, within=True, pipeline=NON_REENTRANT),
    "checkpointing within, by dtype": Case(within=True, options=BY_DTYPE),
}


def micro_batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
    for index in range(2):
        generator = torch.Generator().manual_seed(10 * step + index)
        ids = torch.randint(0, 10, (BATCH, 6), generator=generator)
        yield ids, torch.randn(BATCH, WIDTH, generator=generator)


def weights(stage: nn.Module) -> dict[str, list[float]]:
    return {name: p.flatten().tolist() for name, p in stage.named_parameters() if name != "anchor"}


def alone(case: Case) -> tuple[list[float], list[dict[str, list[float]]]]:
    stages = case.build()
    if case.options and case.frozen != ALL:
        stages[0].need = True  # type: ignore[assignment]
    trained = [p for s in stages for p in s.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained or [nn.Parameter(torch.ones(1))], lr=0.5)
    losses = []
    for step in range(STEPS):
        each = []
        for ids, target in micro_batches(step):
            out = stages[2](**stages[1](**stages[0](ids)))
            loss = out if case.loss_fn is None else case.loss_fn(out, target)
            (loss / 2).backward()
            each.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append((sum(each) / 2).item())  # type: ignore[union-attr]
    return losses, [weights(stage) for stage in stages]


def trained(rank: Rank, cases: list[Case]) -> list[Any]:
    results = []
    for case in cases:
        stages = case.build()
        engine = engine_for(
            stages,
            Grid(3),
            inputs=["ids"],
            loss_fn=case.loss_fn,
            config={"gradient_accumulation_steps": 2, "pipeline": case.pipeline},
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
            **case.options,
        )
        engine.eval_batch(micro_batches(50))
        rank.say("evaluated")
        losses = [engine.train_batch(micro_batches(step)).item() for step in range(STEPS)]
        results.append((losses, weights(stages[rank.rank])))
    return results


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("name", RAISES)
def test_every_rank_raises_torchs_error(name: str) -> None:
    case = RAISES[name]
    with pytest.raises(RuntimeError, match=TEXT):
        alone(case)
    evaluated: list[int] = []
    for ended in outcomes(trained, 3, [case], on_message=lambda rank, _: evaluated.append(rank)):
        assert ended.status == "error" and TEXT in ended.detail, ended.detail
        assert "enable_input_require_grads() on the model" in ended.detail
    assert sorted(evaluated) == [0, 1, 2]


def test_what_requires_a_gradient_trains_as_in_one_process() -> None:
    per_rank = values(trained, 3, list(TRAINS.values()))
    for index, (name, case) in enumerate(TRAINS.items()):
        losses, expected = alone(case)
        for rank, own in enumerate(per_rank):
            assert own[index] == (losses, expected[rank]), name
    assert per_rank[1][0][1]["adapter.weight"] != weights(Case().build()[1])["adapter.weight"]
