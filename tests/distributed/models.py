"""Small models for the engine tests, each whole and in stages that share its parameters.

``forward`` is the oracle: it calls the stages' arithmetic directly, with no name, no liveness and
no codec between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import pipecodec.deepspeed

from .engines import Grid, join, loss_fn, sgd
from .training import Training, names_here

__all__ = ["WIDTH", "Case", "DeadEnds", "Decoder"]

WIDTH = 8

Stages = tuple[list[nn.Module], list[Any]]
"""The stages' modules and the outputs that each declares."""


class _Block(nn.Module):
    """Stands in for a decoder layer: every argument, of any kind, changes its result."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(
        self,
        hidden: torch.Tensor,
        float_mask: torch.Tensor,
        bool_mask: torch.Tensor,
        cache: None,
        step: int,
        scale: float,
        rotary: dict[str, Any],
    ) -> dict[str, Any]:
        if cache is not None or rotary["flags"] != [True, "interleaved", None]:
            raise ValueError(f"changed on the way: {cache=}, {rotary['flags']=}")
        turned = hidden * rotary["cos"] + hidden.flip(-1) * rotary["pair"][0]
        mixed = torch.tanh(self.linear(turned)) * scale + float_mask
        return {"hidden": hidden + mixed.masked_fill(bool_mask, 0.0) / step}


class _Embed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.skip = nn.Linear(WIDTH, 3)
        self.block = _Block()
        self.calls = 0

    def forward(self, x: torch.Tensor, segment: torch.Tensor) -> dict[str, Any]:
        self.calls += 1
        shared = {
            "float_mask": torch.linspace(-0.1, 0.1, x.shape[0]).unsqueeze(1),
            "bool_mask": segment == 0,
            "cache": None,
            "step": 2 + self.calls % 3,
            "scale": 0.1 / self.calls,
            "rotary": {
                "cos": torch.cos(torch.arange(WIDTH) / 7),
                "pair": (torch.sin(torch.arange(WIDTH) / 7), 2),
                "flags": [True, "interleaved", None],
            },
        }
        hidden = self.block(self.linear(x), **shared)["hidden"]
        return {"hidden": hidden, "skip": {"wide": self.skip(x).double()}, **shared}


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 3)

    def forward(
        self, hidden: torch.Tensor, skip: dict[str, torch.Tensor], segment: torch.Tensor
    ) -> torch.Tensor:
        bias = segment.float().mean(1, keepdim=True)
        out: torch.Tensor = self.linear(hidden) + skip["wide"].float() + bias
        return out


class Decoder(nn.Module):
    """Sends the values of a decoder-only model; ``skip`` and ``segment`` bypass the middle stage.

    ``frozen`` names the parts ("first", "middle") whose parameters are not trained.
    """

    def __init__(self, stages: int, frozen: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.first, self.last = _Embed(), _Head()
        self.middle = nn.ModuleList([_Block() for _ in range(stages - 2)])
        for part in frozen:
            self.get_submodule(part).requires_grad_(False)

    def forward(self, x: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
        given = self.first(x, segment)
        hidden, skip = given.pop("hidden"), given.pop("skip")
        for block in self.middle:
            hidden = block(hidden, **given)["hidden"]
        out: torch.Tensor = self.last(hidden, skip, segment)
        return out

    def stages(self) -> Stages:
        given = ["hidden", "skip", "float_mask", "bool_mask", "cache", "step", "scale", "rotary"]
        outputs = [given, *(["hidden"] for _ in self.middle), None]
        return [self.first, *self.middle, self.last], outputs


class _Fan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.spare = nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor, segment: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.spare(x).to(torch.complex64), self.hidden(x)


class _OnlyShapes(nn.Module):
    """Takes differentiable values and lets none of them reach its result."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, WIDTH)

    def forward(self, hidden: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(torch.full((hidden.shape[0], 1), float(spare.shape[1])))
        return out


class _Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 3)

    def forward(self, hidden: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(hidden)
        return out


class DeadEnds(nn.Module):
    """No value of the first boundary gets a gradient, and ``spare`` crosses both unused."""

    def __init__(self, stages: int = 3) -> None:
        super().__init__()
        self.fan, self.shapes, self.sum = _Fan(), _OnlyShapes(), _Sum()

    def forward(self, x: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
        spare, hidden = self.fan(x, segment)
        out: torch.Tensor = self.sum(self.shapes(hidden, spare), spare)
        return out

    def stages(self) -> Stages:
        return [self.fan, self.shapes, self.sum], [["spare", "hidden"], "hidden", None]


MODELS = {"Decoder": Decoder, "DeadEnds": DeadEnds}


@dataclass(frozen=True)
class Case(Training):
    """One of ``MODELS`` with its arguments, on an engine that DeepSpeed itself makes."""

    model: str
    grid: Grid
    arguments: dict[str, Any] = field(default_factory=dict)
    accumulate: int = 2
    evaluate: frozenset[int] = frozenset()

    unused_have_none = False  # DeepSpeed's own engine makes zeros of them

    def build(self) -> Any:
        torch.manual_seed(7)
        return MODELS[self.model](self.grid.stages, **self.arguments)

    def batches(self, step: int, replica: int, *, evaluate: bool = False) -> Iterator[Any]:
        """Yield the micro-batches of a step: ((x, segment), target)."""
        for index in range(self.accumulate):
            seed = 1000 * (step + 100 * evaluate) + index
            random = torch.Generator().manual_seed(seed)
            x = torch.randn(4, WIDTH, generator=random)
            segment = torch.randint(0, 2, (4, WIDTH), generator=random)
            target = torch.randint(0, 3, (4,), generator=random)
            yield (x, segment), target

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        given, target = batch
        return loss_fn(model(*given), target)

    def module(self, model: Any, **options: Any) -> Any:
        """Return DeepSpeed's module of this rank's stages, whose outputs are declared."""
        join()
        stages, outputs = model.stages()
        return pipecodec.deepspeed.pipeline_module(
            pipecodec.partition_modules(stages, ["x", "segment"], outputs),
            topology=self.grid.topology(),
            loss_fn=loss_fn,
            config=self.config(),
            schedule=self.grid.schedule,
            **options,
        )

    def engine(self, model: Any) -> tuple[Any, dict[nn.Parameter, str]]:
        import deepspeed

        module = self.module(model)
        optimizer = sgd([p for p in module.parameters() if p.requires_grad])
        engine = deepspeed.initialize(model=module, optimizer=optimizer, config=self.config())[0]
        return engine, names_here(engine, model)

    def config(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": self.accumulate,
            "gradient_clipping": 0.0,
            "steps_per_print": None,
        }
