"""Training in every precision, with layers that some steps or some replicas do not use.

The reference is plain torch in one process. In half precision it does what DeepSpeed's optimizers
are for, with one fp32 copy of each parameter, so that one without a gradient is left alone by
torch's optimizer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import pipecodec
import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

__all__ = ["OPTIMIZERS", "ROUTES", "Case", "train", "whole"]

WIDTH, MICRO_BATCH = 6, 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Route = int | str | None

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
}

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


@dataclass(frozen=True)
class Case:
    """What to train and how; ``routes`` is a key of ``ROUTES``.

    ``scale`` is fp16's static loss scale, None a dynamic one that starts at 2**8. The first stage
    is ``frozen``, the last one is ``bare`` of biases, ``tied`` to it by the
    matrix of the first expert. ``grouped``: matrices decay and other
    parameters do not; it says in which way this is told to ``initialize``. ``config`` is merged
    into DeepSpeed's configuration.
    """

    optimizer: str = "adamw"
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

    @property
    def processes(self) -> int:
        return self.pipes * self.replicas

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    def settings(self) -> dict[str, Any]:
        """Return DeepSpeed's configuration."""
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": MICRO_BATCH,
            "gradient_accumulation_steps": 2,
            "gradient_clipping": self.clip,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
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


def build(case: Case) -> nn.ModuleList:
    """Return the stages with the same weights in every process."""
    torch.manual_seed(5)
    inner = [Inner(middle=number > 0) for number in range(case.pipes - 1)]
    stages = nn.ModuleList([*inner, Last(middle=False)])
    if case.frozen:
        stages[0].requires_grad_(False)
    if case.tied:
        stages[-1].experts[0].weight = stages[0].experts[0].weight
    if case.bare:
        for module in stages[-1].modules():
            if isinstance(module, nn.Linear):
                module.bias = None
    return stages


def groups_of(parameters: Iterable[Any], empty: bool = True) -> list[dict[str, Any]]:
    """Return groups by decay; without ``empty`` none that has no parameter."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": 0.3, "kind": "matrices"},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0, "lr": 0.05},
    ]
    return [group for group in groups if group["params"] or empty]


def rates(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a schedule with another rate for each group."""
    each = [lambda step: 1 / (1 + step), lambda step: 1 + step]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, each[: len(optimizer.param_groups)])


def given(case: Case, stages: nn.ModuleList) -> dict[str, Any]:
    """Return what ``initialize`` is given to train with."""
    make = OPTIMIZERS[case.optimizer]
    trained = [p for p in stages.parameters() if p.requires_grad]
    names = {p: name for name, p in stages.named_parameters()}

    def by_name(parameters: Any) -> torch.optim.Optimizer:
        assert all(parameter in names for parameter in parameters)
        return make(groups_of(parameters))

    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "": lambda: {"optimizer": make},
        "function": lambda: {"optimizer": by_name, "lr_scheduler": rates},
        "function without empty groups": lambda: {
            "optimizer": lambda parameters: make(groups_of(parameters, empty=False)),
            "lr_scheduler": rates,
        },
        "function of the whole model": lambda: {
            "optimizer": lambda _: make(groups_of(trained)),
            "lr_scheduler": rates,
        },
        "groups": lambda: {
            "optimizer": make,
            "model_parameters": iter(groups_of(trained)),
            "lr_scheduler": rates,
        },
        "groups with names": lambda: {
            "optimizer": make,
            "model_parameters": [
                {**group, "params": ((names[p], p) for p in group["params"])}
                for group in groups_of(trained)
            ],
            "lr_scheduler": rates,
        },
        "groups for the configuration": lambda: {
            "optimizer": None,
            "model_parameters": groups_of(trained),
            "lr_scheduler": rates,
        },
    }
    if case.grouped == "object":
        optimizer = make(groups_of(trained))
        return {"optimizer": optimizer, "lr_scheduler": rates(optimizer)}
    return ways[case.grouped]()


def loss_fn(output: Tensor, target: Tensor) -> Tensor:
    return ((output.float() - target.float()) ** 2).mean()


def micro_batches(case: Case, step: int, replica: int) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    for index, route in enumerate(ROUTES[case.routes][step][replica]):
        random = torch.Generator().manual_seed(100 * step + 10 * replica + index)
        x = torch.randn(MICRO_BATCH, WIDTH, generator=random)
        target = torch.randn(MICRO_BATCH, WIDTH, generator=random)
        yield (x.to(case.dtype), route), target.to(case.dtype)


def train(
    rank: Rank, cases: dict[str, Case]
) -> dict[str, tuple[list[float], dict[str, list[float]]]]:
    """Return for each case the losses, and the weights of this rank's stage by name."""
    return {name: _train(rank, name, case) for name, case in cases.items()}


def engine_of(
    case: Case, stages: nn.ModuleList, inputs: list[str] | None = None, **options: Any
) -> Any:
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    accelerator = type(get_accelerator())
    accelerator.is_fp16_supported = lambda self: True
    accelerator.supported_dtypes = lambda self: list(DTYPES.values())
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return pipecodec.deepspeed.initialize(
        pipecodec.partition_modules(list(stages), inputs or ["hidden", "route"]),
        **{
            "topology": PipeDataParallelTopology(num_pp=case.pipes, num_dp=case.replicas),
            "loss_fn": loss_fn,
            "config": case.settings(),
            **given(case, stages),
            **options,
        },
    )[0]


def _train(rank: Rank, name: str, case: Case) -> tuple[list[float], dict[str, list[float]]]:
    rank.say(name)
    stages = build(case)
    names = {parameter: name for name, parameter in stages.named_parameters()}
    engine = engine_of(case, stages)
    replica = engine.grid.get_data_parallel_rank()
    losses = [
        engine.train_batch(micro_batches(case, step, replica)).item()
        for step in range(len(ROUTES[case.routes]))
    ]
    here = {names[p]: p.flatten().tolist() for p in engine.module.parameters() if p in names}
    return losses, here


def whole(case: Case) -> tuple[list[float], dict[str, list[float]]]:
    """Return the losses and all weights of the same training in one process."""
    stages = build(case).to(case.dtype)
    trained = [p for p in stages.parameters() if p.requires_grad]
    masters = trained
    if case.precision != "fp32":
        masters = [p.detach().float().requires_grad_() for p in trained]
    optimizer = OPTIMIZERS[case.optimizer](groups_of(masters) if case.grouped else masters)
    schedule = rates(optimizer) if case.grouped else None
    scale = 1.0 if case.precision != "fp16" else case.scale or 2.0**8
    losses = []
    for step in range(len(ROUTES[case.routes])):
        gradients: list[list[Tensor | None]] = []
        sums = []
        for replica in range(case.replicas):
            own = []
            for (hidden, route), target in micro_batches(case, step, replica):
                for stage in stages:
                    hidden = stage.run(hidden, route)
                loss = loss_fn(hidden, target)
                (loss / 2 * scale).backward()
                own.append(loss.detach())
            sums.append(sum(own[1:], own[0]) / 2)
            gradients.append([p.grad for p in trained])
            stages.zero_grad()
        losses.append((sum(sums[1:], sums[0]) / case.replicas).item())
        for master, *each in zip(masters, *gradients, strict=True):
            some = [gradient for gradient in each if gradient is not None]
            mean = sum(some[1:], some[0]) / case.replicas if some else None
            master.grad = None if mean is None else mean.to(master.dtype) * (1 / scale)
        if case.clip:
            _clip(case, masters)
        _step(case, optimizer, masters)
        with torch.no_grad():
            for parameter, master in zip(trained, masters, strict=True):
                parameter.copy_(master)
        optimizer.zero_grad()
        if schedule is not None:
            schedule.step()
    return losses, {name: p.flatten().tolist() for name, p in stages.named_parameters()}


def _clip(case: Case, masters: list[Tensor]) -> None:
    gradients = [master.grad for master in masters if master.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    factor = min(1.0, case.clip / (norm.item() + 1e-6))
    for gradient in gradients:
        gradient.mul_(factor)
        if case.precision == "bf16" and not case.zero:  # where DeepSpeed clips bf16 gradients
            gradient.copy_(gradient.bfloat16())


def _step(case: Case, optimizer: Any, masters: list[Tensor]) -> None:
    optimizer.step()
    fused = "optimizer" in case.config and "torch_adam" not in case.config["optimizer"]["params"]
    if case.optimizer == "adamw" and (case.zero or case.precision == "bf16" or fused):
        # Flat optimizers, and FusedAdam, count the steps of a group, not those of a parameter.
        steps = max(int(state["step"]) for state in optimizer.state.values())
        for master in masters:
            state = optimizer.state[master]
            if not state:
                state.update(exp_avg=torch.zeros_like(master))
                state.update(exp_avg_sq=torch.zeros_like(master), step=torch.tensor(0.0))
            state["step"].fill_(steps)
