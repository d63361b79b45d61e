"""Two pipelines of two ranks whose stages are replicas of each other, by DDP and FSDP2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.pipelining import Schedule1F1B
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import pipecodec
from pipecodec.demo.launch import Rank
from tests.distributed.harness import values, wait_for_others

from .tied_training import Case, batch_of, in_one_process, loss_of, on_ranks, tied


def replicas(schedule: str, parallel: str, **settings: Any) -> Case:
    """Return a case of 2 pipelines."""
    two = {"ranks": 2, "replicas": 2, "micro_batches": 4, "steps": 3, "clip": 0.5}
    return Case(schedule, parallel=parallel, **{**two, **settings})


COPIES = {"places": (0, -1), "copied": True}
UNUSED = {"steps": 4, "active": ((0, -1), (0,), (), (-1,), (-1,), (-1,), (), ())}
"""By step and replica: on both, on one each, on neither."""

CASES = {
    "DDP, GPipe": replicas("GPipe", "DDP", **COPIES, evaluate=True),
    "DDP, 1F1B": replicas("1F1B", "DDP", **COPIES, accumulate=2, steps=4),
    "DDP, zero bubble": replicas("InterleavedZeroBubble", "DDP", **COPIES),
    "DDP, one object": replicas("ZBVZeroBubble", "DDP", places=(0, -1)),
    "DDP, unused": replicas("1F1B", "DDP, unused", **COPIES, **UNUSED),
    "DDP, unused, zero bubble": replicas("ZBVZeroBubble", "DDP, unused", **COPIES, **UNUSED),
    "DDP, unused, not tied": replicas(
        "GPipe", "DDP, unused", places=(0,), active=((0,), (), (), (0,), (), ())
    ),
    "FSDP, GPipe": replicas("GPipe", "FSDP", **COPIES, evaluate=True),
    "FSDP, 1F1B": replicas("1F1B", "FSDP", **COPIES, accumulate=2, steps=4),
    "FSDP, zero bubble": replicas("InterleavedZeroBubble", "FSDP", **COPIES),
    "FSDP, one object": replicas("ZBVZeroBubble", "FSDP", places=(0, -1)),
    "FSDP, unused": replicas(
        "1F1B", "FSDP, unused", **COPIES, active=((0, -1), (0,), (0,), (-1,), (-1,), (0, -1))
    ),
}


def test_trains_as_in_one_process() -> None:
    ranks = values(on_ranks, 4, CASES, timeout=180)
    for name, case in CASES.items():
        whole = in_one_process(case)
        found: dict[object, set[bytes]] = {}
        for rank in ranks:
            own = rank[name]
            for (stage, path), weight in own.weights.items():
                assert np.allclose(weight, whole.weights[stage, path], rtol=0, atol=1e-9), (
                    name,
                    stage,
                    path,
                )
                copies = "tied" if path == "weight" and len(case.places) > 1 else (stage, path)
                found.setdefault(copies, set()).add(weight.tobytes())
            for step, missing in enumerate(own.missing):
                assert missing == whole.missing[step] & own.weights.keys(), (name, step)
            assert own.norms == pytest.approx(whole.norms, rel=1e-9), name
        assert {len(different) for different in found.values()} == {1}, name


def unused_unknown_to_ddp(rank: Rank, folder: str) -> str:
    """Train one step in which a replica does not use a weight that DDP waits for."""
    dist.init_process_group(rank.backend)
    case = replicas("1F1B", "DDP", places=(0,), active=((0,), ()))
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    place, replica = mesh.get_coordinate()
    part = tied(case)
    module = part.stages[place]
    part.stages[place] = nn.parallel.DistributedDataParallel(
        module, process_group=mesh["dp"].get_group()
    )
    case.activate({place: module}, 0, replica)
    stage = pipecodec.pipelining.build_stage(part, place, group=mesh["pp"].get_group())
    schedule = Schedule1F1B(stage, 4, loss_fn=pipecodec.pipelining.loss(loss_of))
    ids, target = batch_of(0, replica)
    try:
        schedule.step(*([ids] if place == 0 else []), target=target)
        return "no error"
    except RuntimeError as error:
        return str(error)
    finally:
        wait_for_others(rank, folder, rank.world)


def test_ddp_that_does_not_finish_is_an_error_in_the_same_step(tmp_path: Path) -> None:
    for text in values(unused_unknown_to_ddp, 4, str(tmp_path)):
        assert "find_unused_parameters=True" in text


class Shards(nn.Module):
    """A stage that returns a DTensor, or gets one wrong."""

    def __init__(self, mesh: DeviceMesh, *, wrong: bool) -> None:
        super().__init__()
        self.mesh, self.wrong = mesh, wrong
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.wrong:
            return distribute_tensor(self.linear(x), self.mesh, [Shard(0)])
        return DTensor.from_local(self.linear(x), self.mesh, [Shard(0)])


def dtensor(rank: Rank, folder: str, wrong: bool) -> str:
    dist.init_process_group(rank.backend)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "tp"))
    modules = [Shards(mesh["tp"], wrong=wrong), nn.Linear(4, 4)]
    part = pipecodec.partition_modules(modules, outputs=["input", None])
    place = mesh.get_local_rank("pp")
    stage = pipecodec.pipelining.build_stage(part, place, group=mesh["pp"].get_group())
    schedule = Schedule1F1B(stage, 2, loss_fn=pipecodec.pipelining.loss(nn.functional.mse_loss))
    x = torch.ones(4, 4)
    try:
        schedule.step(*([x] if place == 0 else []), target=x)
        return "no error"
    except Exception as error:
        return str(error)
    finally:
        wait_for_others(rank, folder, rank.world)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            False,
            "input is of type torch.distributed.tensor.DTensor, which is spread over processes",
        ),
        (True, "`distribute_tensor` should be used to distribute leaf tensors!"),
    ],
)
def test_errors_of_dtensors(tmp_path: Path, wrong: bool, message: str) -> None:
    for text in values(dtensor, 4, str(tmp_path), wrong):
        assert message in text
        assert "lost the connection" not in text
