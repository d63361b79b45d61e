"""Ranks whose sets of strings have another order train together: torchrun gives each its own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecodec.demo.launch import Rank

from .comparison import check
from .engines import Grid
from .harness import values
from .observed_models import Observed
from .reference import in_one_process
from .training import on_engine

CASES = {"gemma3n": Observed("gemma3n", Grid(2))}
KINDS = ("sliding_attention", "full_attention")


def train(engine: str, folder: str) -> None:
    """Train on DeepSpeed's engine or under torch's schedule; leave the results in `folder`."""
    import pipecodec.demo.preload  # noqa: F401  (DeepSpeed compiles nothing, as in other tests)

    from ..pipelining.model_training import Model, train_models

    torch.set_num_threads(1)
    rank = Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), print)
    result: Any
    if engine == "torch":
        result = train_models(rank, {"gemma3n": Model("gemma3n", "1F1B", within=2e-6)})
    else:
        result = on_engine(rank, CASES)["gemma3n"]
    Path(folder, str(rank.rank)).write_bytes(pickle.dumps((list(set(KINDS)), result)))


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_ranks_with_other_hash_seeds_train_as_one_process(engine: str, tmp_path: Path) -> None:
    program = f"from tests.distributed.test_hash_seeds import train; train{engine, str(tmp_path)}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    shell = 'PYTHONHASHSEED=$RANK exec "$0" -c "$1"'
    command += ["--no-python", "sh", "-c", shell, sys.executable, program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ranks: list[Any] = [pickle.loads((tmp_path / str(rank)).read_bytes()) for rank in range(2)]
    assert ranks[0][0] != ranks[1][0], "take seeds of two orders"
    results = [result for _, result in ranks]
    if engine == "torch":
        assert results == [{"gemma3n": ""}, {}]
        return
    (whole,) = values(in_one_process, 1, CASES)
    check(results, whole["gemma3n"], within=1e-6)
