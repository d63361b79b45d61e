"""A value that nobody used has no gradient on the stage that made it, which is not zeros."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pipecodec
from pipecodec.demo.launch import Rank

from .harness import outcomes, values

WIDTH, BATCH = 8, 4


class Doubled(torch.autograd.Function):
    """Would run with zeros, and so give zeros, where it is reached with no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Unmoved(torch.autograd.Function):
    """Uses its input, and has no gradient for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


class First(nn.Module):
    """Gives values of which none, one or all are used; hooks count how often they are called."""

    def __init__(self, lone: bool) -> None:
        super().__init__()
        self.lone = lone
        self.linear, self.plain, self.own, self.kept = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.calls = 0
        if not lone:
            self.plain.weight.register_hook(self.called)
            self.plain.weight.register_post_accumulate_grad_hook(self.called)

    def called(self, gradient: Tensor) -> None:
        assert gradient is not None
        self.calls += 1

    def forward(self, x: Tensor, use: int) -> dict[str, Any]:
        hidden = torch.tanh(self.linear(x))
        if self.lone:
            return {"hidden": hidden}
        plain = self.plain(x)
        if plain.requires_grad:
            plain.register_hook(self.called)
        kept = checkpoint(self.kept, hidden, use_reentrant=True)
        same = {"kept": kept, "again": kept}
        return {"hidden": hidden, "side": (plain, Doubled.apply(self.own(x)).double(), same)}


class Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(hidden)}


class Last(nn.Module):
    """Uses of ``side`` what ``use`` says; of the hidden state nothing if that is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, use: int, side: Any = None) -> Tensor:
        if use < 0:
            hidden = torch.ones_like(hidden)
        if use == 1:
            hidden = hidden + side[0]
        if use == 2:
            hidden = hidden + side[1].float() + side[2]["again"]
        if use == 3:
            hidden = Unmoved.apply(hidden)
        out: Tensor = self.linear(hidden)
        return out


@dataclass(frozen=True)
class Case:
    """``uses`` says for each step and micro-batch what the last stage uses."""

    stages: int = 3
    uses: tuple[tuple[int, ...], ...] = ((0, 1, 0, 2), (0, 0, 0, 0), (-1, 3, -1, -1))
    lone: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    frozen: tuple[int, ...] = ()

    def build(self) -> list[nn.Module]:
        torch.manual_seed(3)
        middles = [Middle() for _ in range(self.stages - 2)]
        stages: list[nn.Module] = [First(self.lone), *middles, Last()]
        for index in self.frozen:
            stages[index].requires_grad_(False)
        return stages


LONE = ((-1, 0, -1, -1), (-1, -1, -1, -1), (0, 0, 0, -1))
CHECKPOINTED = {"activation_checkpoint_interval": 1}

CASES = {
    "2 stages": Case(2),
    "3 stages": Case(),
    "4 stages": Case(4),
    "one micro-batch": Case(2, ((2,), (0,), (1,))),
    "frozen in the middle": Case(frozen=(1,)),
    "lone leaf": Case(3, LONE, True),
    "lone leaf, dynamic": Case(3, LONE, True, {"dynamic_shape": True}),
    "dynamic": Case(options={"dynamic_shape": True}),
    "by dtype": Case(options={"differentiable": "by-dtype"}, frozen=(1,)),
    "reentrant": Case(pipeline=CHECKPOINTED),
    "lone leaf, reentrant": Case(3, LONE, True, pipeline=CHECKPOINTED),
    "dynamic, reentrant": Case(options={"dynamic_shape": True}, pipeline=CHECKPOINTED),
    "non-reentrant": Case(pipeline={**CHECKPOINTED, "use_reentrant": False}),
    "lone leaf, non-reentrant": Case(
        3, LONE, True, pipeline={**CHECKPOINTED, "use_reentrant": False}
    ),
    "V": Case(4, options={"schedule": "dualpipev"}),
    "lone leaf, V": Case(4, LONE, True, {"schedule": "dualpipev"}),
}


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def micro_batches(case: Case, step: int) -> Iterator[Any]:
    for index, use in enumerate(case.uses[step]):
        random = torch.Generator().manual_seed(100 * step + index)
        x, target = torch.randn(2, BATCH, WIDTH, generator=random)
        yield (x, use), target


def gradients(stage: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: None if p.grad is None else p.grad.flatten().tolist()
        for name, p in stage.named_parameters()
        if name != "anchor"
    }
    return {**found, "calls": getattr(stage, "calls", 0)}


def alone(case: Case) -> list[list[dict[str, Any]]]:
    """Return, by stage and step, the gradients before the optimizer steps."""
    stages = case.build()
    optimizer = torch.optim.SGD([p for s in stages for p in s.parameters()], lr=0.1)
    found: list[list[dict[str, Any]]] = [[] for _ in stages]
    for step, uses in enumerate(case.uses):
        for (x, use), target in micro_batches(case, step):
            given = stages[0](x, use)
            hidden = given.pop("hidden")
            for middle in stages[1:-1]:
                hidden = middle(hidden)["hidden"]
            (loss_of(stages[-1](hidden, use, **given), target) / len(uses)).backward()
        for stage, seen in zip(stages, found, strict=True):
            seen.append(gradients(stage))
        optimizer.step()
        optimizer.zero_grad()
    return found


def trained(rank: Rank, names: list[str]) -> dict[str, dict[int, Any]]:
    """Return, by case and stage of this rank, the gradients before the engine reduces them."""
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return {name: trained_case(rank, CASES[name]) for name in names}


def trained_case(rank: Rank, case: Case) -> dict[int, Any]:
    from deepspeed.runtime.pipe import schedule
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    stages = case.build()
    engine, *_ = pipecodec.deepspeed.initialize(
        pipecodec.partition_modules(stages, ["x", "use"]),
        topology=PipeDataParallelTopology(num_pp=rank.world, num_dp=1),
        loss_fn=loss_of,
        config={
            "train_micro_batch_size_per_gpu": BATCH,
            "gradient_accumulation_steps": len(case.uses[0]),
            "gradient_clipping": 0.0,
            "steps_per_print": None,
            "pipeline": case.pipeline,
        },
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        **case.options,
    )
    own = sorted(
        {rank.rank, case.stages - 1 - rank.rank} if rank.world < case.stages else {rank.rank}
    )
    found: dict[int, Any] = {stage: [] for stage in own}
    reduce = engine._INSTRUCTION_MAP[schedule.ReduceTiedGrads]

    def noted(engine: Any) -> None:
        for stage in own:
            found[stage].append(gradients(stages[stage]))
        reduce(engine)

    engine._INSTRUCTION_MAP = {**engine._INSTRUCTION_MAP, schedule.ReduceTiedGrads: noted}
    for step in range(len(case.uses)):
        if step == 1:
            engine.eval_batch(micro_batches(case, 2))
        engine.train_batch(micro_batches(case, step))
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_parameters_have_gradients_where_they_have_in_one_process(world: int) -> None:
    names = [
        name
        for name, case in CASES.items()
        if world == (2 if "schedule" in case.options else case.stages)
    ]
    per_rank = values(trained, world, names)
    for name in names:
        expected = alone(CASES[name])
        assert any(None in seen.values() for seen in expected[0])
        for stage, gradients_alone in enumerate(expected):
            (found,) = [own[name][stage] for own in per_rank if stage in own[name]]
            for step, (here, there) in enumerate(zip(found, gradients_alone, strict=True)):
                differs = [key for key in there if here[key] != there[key]]
                assert not differs, f"{name}, stage {stage}, step {step}"


def read_no_gradients() -> None:
    """Send flags as on a device whose memory the host would have to wait for."""
    from torch.distributed import distributed_c10d

    from pipecodec.deepspeed import flags

    def group_of_its_own() -> Any:
        name = torch.distributed.new_group(backend="gloo").group_name
        return lambda: distributed_c10d._resolve_process_group(name)

    flags._read_from_gradients = lambda engine: False
    flags._host_group = group_of_its_own


def trained_beside(rank: Rank, names: list[str]) -> dict[str, dict[int, Any]]:
    read_no_gradients()
    return trained(rank, names)


def test_flags_go_from_host_to_host_where_a_gradient_would_be_waited_for() -> None:
    names = ["3 stages", "dynamic, reentrant", "lone leaf"]
    per_rank = values(trained_beside, 3, names)
    for name in names:
        assert [own[name][stage] for stage, own in enumerate(per_rank)] == alone(CASES[name])


def left_without_flags(rank: Rank, killed: bool) -> None:
    """Let the last stage end after it sent a gradient, but not which leaves it is of."""
    import deepspeed
    from deepspeed.runtime.pipe import schedule
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    read_no_gradients()
    case = Case(2, ((0, 0),), lone=True)
    engine, *_ = pipecodec.deepspeed.initialize(
        pipecodec.partition_modules(case.build(), ["x", "use"]),
        topology=PipeDataParallelTopology(num_pp=2, num_dp=1),
        loss_fn=loss_of,
        config={"train_micro_batch_size_per_gpu": BATCH, "gradient_accumulation_steps": 2},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )
    send_gradient = engine._INSTRUCTION_MAP[schedule.SendGrad]

    def send_and_end(engine: Any, buffer_id: int) -> None:
        send_gradient(engine, buffer_id)
        if killed:
            os._exit(3)
        raise ValueError("ended after its gradient")

    if rank.rank == 1:
        (stage,) = engine.module.forward_funcs
        stage.incoming.note_unused = lambda unused, tunnel: None
        engine._INSTRUCTION_MAP = {**engine._INSTRUCTION_MAP, schedule.SendGrad: send_and_end}
    engine.train_batch(micro_batches(case, 0))


@pytest.mark.parametrize("killed", [False, True])
def test_flags_that_never_come_are_an_error(killed: bool) -> None:
    first, last = outcomes(left_without_flags, 2, killed)
    assert first.status == "error" and last.status == ("died" if killed else "error")
    assert ("Connection" in first.detail) if killed else ("after its gradient" in first.detail)


def by_hand(value: Any, loss_of_received: Any, cut: bool) -> None:
    """Run a value through a boundary in one process; ``cut``: as an engine does, with copies."""
    sender, receiver = (pipecodec.Codec(transport="tunnel") for _ in range(2))
    sent = sender.pack(value)
    if not cut:
        loss_of_received(receiver.receive(sent)).backward()
        return
    arrived = tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in sent)
    loss_of_received(receiver.receive(arrived)).backward()
    sent[0].backward(arrived[0].grad)


@pytest.mark.parametrize("cut", [False, True])
def test_codecs_without_an_engine_say_it_in_the_tail(cut: bool) -> None:
    used, unused = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3))
    by_hand({"a": used * 2, "b": unused * 2}, lambda got: got[0]["a"].sum() + got[1].sum(), cut)
    assert unused.grad is None and used.grad.tolist() == [2.0] * 4
    lone = nn.Parameter(torch.ones(4))
    by_hand(lone * 2, lambda got: got[1].sum(), cut)
    assert lone.grad.tolist() == [0.0] * 4 if cut else lone.grad is None


def test_gradients_that_are_made_by_hand_have_no_tail() -> None:
    """Of zeros, or of ones: neither says that a leaf was not used."""
    for value in (0.0, 1.0):
        weight = nn.Parameter(torch.ones(2))
        tunnel, _ = pipecodec.Codec(transport="tunnel").pack([weight * 2, weight * 3])
        tunnel.backward(torch.full_like(tunnel, value))
        assert weight.grad.tolist() == [5 * value] * 2
