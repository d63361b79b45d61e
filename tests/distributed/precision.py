"""Trainings in every precision, with layers that some steps or some replicas do not use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .engines import Grid, allow_fp16, engine_for
from .groups import OPTIMIZERS, given, groups_of, rates
from .training import Training, names_here

__all__ = ["ROUTES", "Case", "Last", "engine_of", "loss_fn"]

WIDTH, MICRO_BATCH, ACCUMULATE = 6, 4, 2

Route = int | str | None

ROUTES: dict[str, list[list[list[Route]]]] = {
    # By step, replica and micro-batch: the expert that is used, None for none of them, or "idle"
    # where the middle stage uses none of its parameters.
    "all used": [[[0, 1], [1, 0]]] * 3,
    "unused": [
        [[0, None], [0, 0]],
        [[1, 0], [None, 0]],
        [[None, None], [None, None]],
        [[None, 1], [1, 1]],
        [[0, 0], [0, None]],
    ],
    "other layers": [
        [[0, 0], [1, 1]],
        [[0, None], [None, None]],
        [[None, None], [1, 1]],
        [[None, None], [None, None]],
        [[1, 1], [0, 0]],
    ],
    "idle": [[[0, 1], [0, 0]], [["idle", "idle"]] * 2, [["idle", "idle"], [0, 1]], [[1, 1]] * 2],
}


class Stage(nn.Module):
    """A layer that is always used and two experts, of which a micro-batch uses one or none."""

    def __init__(self, middle: bool) -> None:
        super().__init__()
        self.always = nn.Linear(WIDTH, WIDTH)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.middle = middle

    def run(self, hidden: Tensor, route: Route) -> Tensor:
        if route == "idle":
            return hidden.tanh() if self.middle else self.always(hidden)
        hidden = torch.tanh(self.always(hidden))
        return hidden if route is None else hidden + self.experts[int(route)](hidden)


class Inner(Stage):
    def forward(self, hidden: Tensor, route: Route) -> dict[str, Tensor]:
        return {"hidden": self.run(hidden, route)}


class Last(Stage):
    def forward(self, hidden: Tensor, route: Route) -> Tensor:
        return self.run(hidden, route)


@dataclass(frozen=True)
class Case(Training):
    """A training in one precision; ``routes`` is a key of ``ROUTES``.

    ``scale`` is fp16's static loss scale, None a dynamic one that starts at 2**8. The first stage
    is ``frozen``, the last one is ``bare`` of biases, ``tied`` to it by the
    matrix of the first expert. ``grouped``: matrices decay and other
    parameters do not; it says in which way this is told to ``initialize``. ``config`` is merged
    into DeepSpeed's configuration.
    """

    optimizer_name: str = "adamw"
    precision: str = "fp32"
    zero: int = 0
    replicas: int = 1
    routes: str = "unused"
    pipes: int = 2
    clip: float = 0.0
    scale: float | None = 64.0
    frozen: bool = False
    bare: bool = False
    tied: bool = False
    grouped: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    accumulate = ACCUMULATE

    @property
    def grid(self) -> Grid:
        return Grid(self.pipes, self.replicas)

    @property
    def steps(self) -> int:
        return len(ROUTES[self.routes])

    @property
    def loss_scale(self) -> float:
        return self.scale or 2.0**8

    def build(self) -> nn.ModuleList:
        torch.manual_seed(5)
        inner = [Inner(middle=number > 0) for number in range(self.pipes - 1)]
        stages = nn.ModuleList([*inner, Last(middle=False)])
        if self.frozen:
            stages[0].requires_grad_(False)
        if self.tied:
            stages[-1].experts[0].weight = stages[0].experts[0].weight
        if self.bare:
            for module in stages[-1].modules():
                if isinstance(module, nn.Linear):
                    module.bias = None
        return stages

    def batches(self, step: int, replica: int, *, evaluate: bool = False) -> Iterator[Any]:
        for index, route in enumerate(ROUTES[self.routes][step][replica]):
            random = torch.Generator().manual_seed(100 * step + 10 * replica + index)
            hidden = torch.randn(MICRO_BATCH, WIDTH, generator=random).to(self.dtype)
            target = torch.randn(MICRO_BATCH, WIDTH, generator=random).to(self.dtype)
            yield {"hidden": hidden, "route": route, "labels": target}

    def loss_fn(self, output: Tensor, target: Tensor) -> Tensor:
        return loss_fn(output, target)

    def engine(self, model: Any) -> tuple[Any, dict[nn.Parameter, str]]:
        engine = engine_of(self, model)
        return engine, names_here(engine, model)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        make = OPTIMIZERS[self.optimizer_name]
        return make(groups_of(parameters) if self.grouped else parameters)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return rates(optimizer) if self.grouped else None

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Flat optimizers, and FusedAdam, count the steps of a group, not those of a parameter."""
        optimizer.step()
        configured = self.config.get("optimizer", {}).get("params")
        fused = configured is not None and "torch_adam" not in configured
        if self.optimizer_name == "adamw" and (self.zero or self.precision == "bf16" or fused):
            steps = max(int(state["step"]) for state in optimizer.state.values())
            for parameter in [p for group in optimizer.param_groups for p in group["params"]]:
                state = optimizer.state[parameter]
                if not state:
                    state.update(exp_avg=torch.zeros_like(parameter))
                    state.update(exp_avg_sq=torch.zeros_like(parameter), step=torch.tensor(0.0))
                state["step"].fill_(steps)

    def settings(self) -> dict[str, Any]:
        """Return DeepSpeed's configuration."""
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": MICRO_BATCH,
            "gradient_accumulation_steps": ACCUMULATE,
            "gradient_clipping": self.clip,
        }
        if self.precision != "fp32":
            settings[self.precision] = {"enabled": True}
        if self.precision == "fp16":
            settings["fp16"].update(loss_scale=self.scale or 0, initial_scale_power=8)
        if self.zero:
            settings["zero_optimization"] = {"stage": self.zero, "reduce_bucket_size": 1000}
        for name, value in self.config.items():
            old = settings.get(name)
            settings[name] = {**old, **value} if isinstance(old, dict) else value
        return settings


def loss_fn(output: Tensor, target: Tensor) -> Tensor:
    return ((output.float() - target.float()) ** 2).mean()


def engine_of(
    case: Case, stages: nn.ModuleList, inputs: list[str] | None = None, **options: Any
) -> Any:
    """Return this rank's engine for ``stages``, with another optimizer if ``options`` have one."""
    allow_fp16()
    trained = {"loss_fn": loss_fn, **given(case.optimizer_name, case.grouped, stages), **options}
    return engine_for(
        list(stages),
        case.grid,
        inputs=inputs or ["hidden", "route"],
        config=case.settings(),
        **trained,
    )
