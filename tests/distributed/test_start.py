"""``initialize`` starts the ranks by itself, and lays pipelines over all of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.ops
import pytest
import torch.distributed as dist
from torch import nn

from pipecodec import partition_modules
from pipecodec.deepspeed import initialize
from pipecodec.demo.launch import Rank

from .engines import loss_fn, sgd
from .harness import values

CONFIG = {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0, "steps_per_print": None}


def started(rank: Rank, stages: int, accumulate: int, options: dict[str, Any]) -> Any:
    """Set up without a word about ranks; return the backend and the grid, or the error."""
    assert not dist.is_initialized()
    part = partition_modules(
        [nn.Linear(2, 2) for _ in range(stages)], outputs=[*["input"] * (stages - 1), None]
    )
    config = {**CONFIG, "gradient_accumulation_steps": accumulate}
    try:
        engine, *_ = initialize(part, loss_fn=loss_fn, config=config, optimizer=sgd, **options)
    except ValueError as error:
        return str(error)
    return dist.get_backend(), engine.num_stages, engine.dp_world_size


@pytest.mark.parametrize(
    ("world", "stages", "options", "grid"),
    [
        (2, 2, {}, ("gloo", 2, 1)),
        (4, 2, {}, ("gloo", 2, 2)),
        (2, 2, {"schedule": "dualpipev"}, ("gloo", 1, 2)),
    ],
)
def test_pipelines_over_all_ranks(
    world: int, stages: int, options: dict[str, Any], grid: tuple[str, int, int]
) -> None:
    assert values(started, world, stages, 4, options) == [grid] * world


def started_beside_a_broken_build(rank: Rank, folder: str) -> Any:
    os.environ["TORCH_EXTENSIONS_DIR"] = folder
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": True}  # the launcher empties it
    found = started(rank, 2, 4, {})
    return found, deepspeed.ops.__compatible_ops__


def test_deepspeed_compiles_no_operator_for_inference(tmp_path: Path) -> None:
    """With torchrun on the CPU it did, for a minute, and waited for ever for a stale lock."""
    op = tmp_path / "deepspeed_shm_comm"
    op.mkdir()
    (op / "lock").touch()
    found = values(started_beside_a_broken_build, 2, str(tmp_path), timeout=60)
    assert found == [(("gloo", 2, 1), {"deepspeed_shm_comm": True})] * 2
    assert [file.name for file in op.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("stages", "options", "each"),
    [(2, {}, ""), (3, {"schedule": "dualpipev"}, ", two on each rank")],
)
def test_ranks_that_are_left_over_are_refused(
    stages: int, options: dict[str, Any], each: str
) -> None:
    for message in values(started, 3, stages, 4, options):
        assert message.endswith(
            f"3 ranks do not make whole pipelines of {stages} stages{each}; start another number "
            f"of processes, or pass topology="
        )


def test_says_how_to_start_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    part = partition_modules([nn.Identity(), nn.Identity()], outputs=["input", None])
    with pytest.raises(
        ValueError,
        match=r"the environment has no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT to do it with: "
        r"start one process for each rank with torchrun \(torchrun --nproc-per-node=4 train\.py\)",
    ):
        initialize(part, config={})
