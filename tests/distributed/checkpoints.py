"""A model that is cut, trained, saved and loaded in many ways, and all that its optimizer holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pipecodec.deepspeed
from pipecodec import Partition, partition_modules

from .engines import Grid, allow_fp16, engine_for, join
from .training import DTYPES

__all__ = ["Case", "build", "differing", "engine_of", "held", "start", "train"]

WIDTH, LAYERS, ACCUMULATE = 6, 6, 2


@dataclass(frozen=True)
class Case:
    """How to train; the number of stages and replicas is the caller's.

    ``tied`` layers use one weight together, ``frozen`` ones do not train. ``groups``: biases do not
    decay and learn faster. ``schedule`` is a class of ``torch.optim.lr_scheduler``.
    """

    optimizer: str = "adamw"
    precision: str = "fp32"
    zero: int = 0
    clip: float = 0.0
    tied: tuple[int, ...] = ()
    frozen: tuple[int, ...] = ()
    groups: bool = False
    norms: bool = False
    schedule: str = ""
    seed: int = 1
    config: tuple[tuple[str, Any], ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


class Layer(nn.Module):
    def __init__(self, shared: nn.Parameter | None, norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH) if norm else nn.Identity()
        self.register_parameter("shared", shared)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.norm(self.linear(hidden))
        return torch.tanh(hidden if self.shared is None else hidden @ self.shared)


class Layers(nn.Module):
    """Some layers, which are numbered anew: a stage's paths are not the model's."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.inner = nn.ModuleList(layers)

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.inner:
            hidden = layer(hidden)
        return hidden


def build(case: Case, stages: int, *, model: bool = True) -> Partition:
    """Return the model cut into stages, of which the first ones have more layers."""
    torch.manual_seed(case.seed)
    shared = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2) if case.tied else None
    layers = [Layer(shared if k in case.tied else None, case.norms) for k in range(LAYERS)]
    for k in case.frozen:
        layers[k].requires_grad_(False)
    ends = [-(-LAYERS * (k + 1) // stages) for k in range(stages)]
    cut = [layers[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    whole = nn.ModuleDict({"decoder": nn.ModuleList(layers)})
    return partition_modules([Layers(part) for part in cut], model=whole if model else None)


def optimizer_of(case: Case, parameters: list[Any]) -> torch.optim.Optimizer:
    groups: list[Any] = parameters
    if case.groups:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.2},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0, "lr": 0.02},
        ]
    if case.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, amsgrad=not case.zero)
    if case.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=0.01)
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.1)


def start() -> None:
    allow_fp16()
    join()


def engine_of(case: Case, part: Partition, replicas: int = 1, **options: Any) -> Any:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": ACCUMULATE,
        "gradient_clipping": case.clip,
        "zero_optimization": {"stage": case.zero},
        **dict(case.config),
    }
    if case.precision != "fp32":
        scale = {"initial_scale_power": 4, "loss_scale_window": 3, "hysteresis": 1}
        config[case.precision] = {
            "enabled": True,
            **(scale if case.precision == "fp16" else {}),
        }
    schedules: dict[str, Callable[[Any], Any]] = {
        "": lambda optimizer: None,
        "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=20),
        "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.ConstantLR(o, 0.5, 3),
                torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
            ],
            milestones=[3],
        ),
    }
    return engine_for(
        part,
        Grid(len(part.stages), replicas),
        loss_fn=lambda output, target: nn.functional.mse_loss(output.float(), target.float()),
        optimizer=lambda parameters: optimizer_of(case, parameters),
        lr_scheduler=schedules[case.schedule] if case.schedule else None,
        config=config,
        **options,
    )


def micro_batches(case: Case, step: int, replica: int) -> Iterator[tuple[Tensor, Tensor]]:
    for index in range(ACCUMULATE):
        random = torch.Generator().manual_seed(1000 * step + 10 * replica + index)
        x, y = (torch.randn(4, WIDTH, generator=random).to(case.dtype) for _ in range(2))
        yield x, y


def train(engine: Any, case: Case, steps: range) -> list[float]:
    replica = engine.grid.get_data_parallel_rank()
    return [engine.train_batch(micro_batches(case, step, replica)).item() for step in steps]


def held(engine: Any, part: Partition) -> dict[str, Any]:
    """Return, by the model's names, the bits of all that this rank's engine holds, and counters.

    The state of flat optimizers comes from DeepSpeed's own functions, which all replicas call.
    """
    assert part.model_state is not None
    names = {
        (path, stage): key
        for key, places in part.model_state.places.items()
        for path, stage in places
    }
    found: dict[str, Any] = {}
    for wrapper in engine.module.modules():
        if not isinstance(wrapper, pipecodec.DeepSpeedPipeStageWrapper):
            continue
        for path, value in wrapper.mod.state_dict(keep_vars=True).items():
            name = names[path, wrapper.stage_id]
            found[name] = bits(value)
            if isinstance(value, nn.Parameter):
                for key, state in states(engine, value).items():
                    found[f"{name}: {key}"] = state
    counters = ("global_steps", "global_samples", "skipped_steps", "micro_steps")
    found["counters"] = [getattr(engine, name) for name in counters]
    if engine.lr_scheduler is not None:
        found["rate"] = engine.lr_scheduler.last_epoch
    if engine.fp16_enabled():
        scaler = getattr(engine.optimizer, "loss_scale_config", None)
        scaler = engine.optimizer.loss_scaler if scaler is None else scaler
        found["scale"] = [scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter]
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def states(engine: Any, parameter: nn.Parameter) -> dict[str, Any]:
    optimizer, found = engine.optimizer, dict[str, Any]()
    inner = getattr(optimizer, "optimizer", optimizer)
    if hasattr(parameter, "_hp_mapping"):  # flat, in parts
        found["master"] = bits(parameter.get_full_hp_param())
        for number, group in enumerate(
            getattr(optimizer, "bf16_groups", None) or optimizer.bit16_groups
        ):
            if any(each is parameter for each in group):
                settings = inner.param_groups[number]
        (flat,) = settings["params"]
        for key, value in inner.state[flat].items():
            if isinstance(value, Tensor) and value.shape == flat.shape:
                optimizer._hp_optimizer_states_linked = False
                optimizer._lazy_init_hp_params_optimizer_state()
                found[key] = bits(parameter.get_full_hp_param(key))
            else:
                found[key] = float(value)
    else:
        master, settings = parameter, None
        if hasattr(optimizer, "fp16_groups"):
            pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
            for low, high in pairs:
                for one, other in zip(low, high, strict=True):
                    master = other if one is parameter else master
            found["master"] = bits(master)
        for group in inner.param_groups:
            if any(each is master for each in group["params"]):
                settings = group
        found.update({key: bits(value) for key, value in inner.state.get(master, {}).items()})
    if settings is not None:
        found["settings"] = {k: v for k, v in settings.items() if k != "params"}
    return found


def bits(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    data = value.detach().cpu().contiguous()
    return str(data.dtype), tuple(data.shape), data.reshape(-1).view(torch.uint8).numpy().tobytes()
