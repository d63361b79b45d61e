"""The model's state dict from stages of 2 pipelines x 2 replicas, and into them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import Schedule1F1B, ScheduleInterleaved1F1B

import pipecodec
from pipecodec.demo.launch import Rank
from tests.distributed.harness import values

SAMPLES, WIDTH, VOCABULARY = 8, 4, 7


class Layer(nn.Module):
    """A layer with buffers, one of them not persistent, and extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.calls = 0

    def forward(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden + self.norm(self.linear(hidden)) * self.scale

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


class Model(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleDict({str(index): Layer() for index in range(3)})
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight


class Part(nn.Module):
    """Some layers of the model, under the model's names."""

    def __init__(self, model: Model, layers: list[int], *, first: bool, last: bool) -> None:
        super().__init__()
        self.embed = model.embed if first else None
        self.layers = nn.ModuleDict({str(index): model.layers[str(index)] for index in layers})
        self.head = model.head if last else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.embed is None else self.embed(x)
        for layer in self.layers.values():
            hidden = layer(hidden)
        return hidden if self.head is None else self.head(hidden)


Wrap = Callable[[nn.Module, DeviceMesh], nn.Module]


class Training:
    """A model of two or four stages on two ranks, in each of two replicas."""

    def __init__(
        self, rank: Rank, seed: int, wrap: Wrap = lambda module, mesh: module, stages: int = 2
    ) -> None:
        self.model = Model(seed)
        layers: list[list[int]] = [[0], [1, 2]] if stages == 2 else [[], [0], [1], [2]]
        parts = [
            Part(self.model, own, first=k == 0, last=k == stages - 1)
            for k, own in enumerate(layers)
        ]
        names = [["x"]] * (stages - 1)
        self.part = pipecodec.partition_modules(
            parts, outputs=[*["x"] * len(names), None], model=self.model
        )
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
        self.place = mesh.get_coordinate()[0]
        self.modules = {}
        for k in range(self.place, stages, 2):
            self.modules[k] = parts[k]
            self.part.stages[k] = wrap(parts[k], mesh["dp"])
        group = mesh["pp"].get_group()
        self.stages = [
            pipecodec.pipelining.build_stage(self.part, k, group=group) for k in self.modules
        ]
        loss = pipecodec.pipelining.loss(nn.functional.cross_entropy)
        self.schedule: Any = (
            Schedule1F1B(self.stages[0], 2, loss_fn=loss)
            if stages == 2
            else ScheduleInterleaved1F1B(self.stages, 2, loss_fn=loss)
        )
        self.optimizers = {
            k: torch.optim.AdamW(module.parameters()) for k, module in self.modules.items()
        }

    def step(self) -> None:
        ids = torch.arange(SAMPLES) % VOCABULARY
        self.schedule.step(*([ids] if self.place == 0 else []), target=ids)
        pipecodec.pipelining.sum_tied_gradients(self.stages)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()

    def state(self, *, full: bool = True) -> Any:
        return pipecodec.pipelining.model_state_dict(self.stages, full=full)

    def load(self, state: Any, *, full: bool = True) -> None:
        pipecodec.pipelining.load_model_state_dict(self.stages, state, full=full)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def ddp(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return nn.parallel.DistributedDataParallel(module, process_group=mesh.get_group())


def fsdp(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for layer in module.layers.values():
        fully_shard(layer, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def compiled(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for layer in module.layers.values():
        layer.linear = torch.compile(layer.linear, backend="eager")
    return torch.compile(module, backend="eager")


def checkpointed(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for name in module.layers:
        module.layers[name] = checkpoint_wrapper(module.layers[name])
    return module


def all_of_them(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for layer in module.layers.values():
        layer.linear = torch.compile(layer.linear, backend="eager")
    return ddp(torch.compile(checkpointed(module, mesh), backend="eager"), mesh)


def plain(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return module


WRAPS = [plain, ddp, fsdp, compiled, checkpointed, all_of_them]


def there_and_back(rank: Rank) -> None:
    dist.init_process_group(rank.backend)
    for wrap in WRAPS:
        rank.say(wrap.__name__)
        other = Model(2).state_dict()
        training = Training(rank, 1, wrap)
        state = training.state()
        assert (state is None) == (rank.rank != 0)
        if state is not None:
            assert same(state, dict(Model(1).state_dict()))
        training.step()
        trained = training.state()
        if state is not None:
            assert not torch.equal(trained["embed.weight"], state["embed.weight"])
            assert trained["layers.2._extra_state"]["calls"] == (
                4 if "check" in wrap.__name__ or wrap is all_of_them else 2
            )
            Model(3).load_state_dict(trained)
        training.load(other)
        back = training.state()
        if back is not None:
            assert same(back, dict(other))
        training.step()


def test_whole_state_there_and_back() -> None:
    values(there_and_back, 4, timeout=120)


def recut(rank: Rank, folder: str) -> None:
    dist.init_process_group(rank.backend)
    for wrap, other in [(plain, fsdp), (fsdp, ddp)]:
        rank.say((wrap.__name__, other.__name__))
        saved, loaded = Training(rank, 1, wrap), Training(rank, 2, other, stages=4)
        saved.step()
        dcp.save(everything(saved), checkpoint_id=f"{folder}/{wrap.__name__}")
        loaded.step()  # makes the optimizer's state
        state = everything(loaded)
        dcp.load(state, checkpoint_id=f"{folder}/{wrap.__name__}")
        loaded.load(state["model"], full=False)
        for k, module in loaded.modules.items():
            optimizer = loaded.optimizers[k]
            set_optimizer_state_dict(module, optimizer, state["optimizer"], options=FLAT)
        for _ in range(2):
            one, two = saved.state(), loaded.state()
            if rank.rank == 0:
                assert one.keys() == two.keys()
                for key in one:
                    if isinstance(one[key], Tensor):
                        torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-6)
                    else:
                        assert one[key] == two[key]
            saved.step()
            loaded.step()


FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def everything(training: Training) -> dict[str, Any]:
    optimizer: dict[str, Any] = {}
    for k, module in training.modules.items():
        optimizer |= get_optimizer_state_dict(module, training.optimizers[k], options=FLAT)
    return {"model": training.state(full=False), "optimizer": optimizer}


def test_checkpoint_of_two_stages_goes_into_four(tmp_path: Any) -> None:
    values(recut, 4, str(tmp_path), timeout=120)


def test_errors_on_all_ranks() -> None:
    for found in values(errors, 4):
        for name, text in found.items():
            assert re.search(ERRORS[name], text), (name, text)


ERRORS = {
    "shape": r"'layers.1.linear.bias' of stage 1 has the shape \[4\], but .* \[5\] \(rank [23]\)",
    "missing": r"ValueError: the state dict has no 'layers.0.norm.weight'",
    "unknown": r"ValueError: the model that was partitioned has no \['other'\]",
    "several values": r"'embed.weight' is one tensor, but 'embed.weight' and 'head.weight' differ",
    "none": r"ValueError: TypeError: state_dict must be a state dict, not None",
    "no tensor": r"'layers.0.linear.bias' of stage 0 is a tensor, not 3",
    "of the stage, missing": r"the state dict has no 'layers.0.norm.weight'",
    "of the stage, unknown": r"has no \['other'\]",
    "module's own": r"KeyError: 'calls'",
    "more in a stage": r"the model has no place for 'more' of stage 0",
    "more in a stage, whole": r"the model has no place for 'more' of stage 0",
}


def errors(rank: Rank) -> dict[str, str]:
    dist.init_process_group(rank.backend)
    training = Training(rank, 1)
    before = training.state()
    found = {}
    good = Model(2).state_dict()
    partial = dict(training.state(full=False))
    given: dict[str, tuple[Any, bool]] = {
        "shape": (good | {"layers.1.linear.bias": torch.zeros(5)}, True),
        "missing": ({k: v for k, v in good.items() if k != "layers.0.norm.weight"}, True),
        "unknown": (good | {"other": torch.zeros(1)}, True),
        "several values": (good | {"head.weight": good["head.weight"] + 1}, True),
        "none": (good if rank.rank == 0 else None, True),
        "no tensor": (good | {"layers.0.linear.bias": 3}, True),
        "of the stage, missing": (
            {k: v for k, v in partial.items() if k != "layers.0.norm.weight"},
            False,
        ),
        "of the stage, unknown": (partial | {"other": 1}, False),
    }
    for name, (state, full) in given.items():
        found[name] = error_of(lambda s=state, f=full: training.load(s, full=f))
    after = training.state()
    assert before is None or same(before, after)
    found["module's own"] = error_of(lambda: training.load(good | {"layers.0._extra_state": {}}))
    if training.place == 0:
        training.modules[0].more = nn.Parameter(torch.zeros(1))
    found["more in a stage"] = error_of(lambda: training.state(full=False))
    found["more in a stage, whole"] = error_of(training.state)
    return found


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        return f"ValueError: {error}"
    return "no error"
