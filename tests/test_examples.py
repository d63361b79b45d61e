"""Each example runs as a user starts it, and trains as one process does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS = 3


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_one_process(example: Any) -> dict[str, torch.Tensor]:
    model = example.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for ids in example.batches(STEPS):
        optimizer.zero_grad()
        for part in ids.chunk(4):
            (example.loss_fn(model(input_ids=part), part) / 4).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.state_dict()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # it loads in one process
@pytest.mark.parametrize("schedule", ["1F1B", "ZBVZeroBubble"])
def test_torch_pipelining(schedule: str, tmp_path: Path) -> None:
    file = EXAMPLES / "torch_pipelining.py"
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--schedule", schedule, "--steps", str(STEPS), "--save", str(tmp_path / "saved")]
    ran = subprocess.run(
        [*started, str(file), *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("step 0: loss 4.8")
    assert len(file.read_text().splitlines()) <= 80
    example = load("torch_pipelining")
    found = example.build_model().state_dict()
    dcp.load(found, checkpoint_id=str(tmp_path / "saved"))
    for name, value in in_one_process(example).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5)
