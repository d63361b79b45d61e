"""A pipeline with tied weights that was saved and loaded goes on as if it had not been stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipecodec import partition_modules
from pipecodec.demo.launch import Rank

from .engines import join
from .harness import values
from .tied import Case, build, engine_of

STEPS, STOP = 4, 2
CASES = {
    "fp32 ZeRO-0": Case(("a b", "a", "b a"), 3),
    "fp32 ZeRO-1": Case(("a b", "a", "b a"), 3, zero=1),
    "bf16 ZeRO-0": Case(("a b", "a", "b a"), 3, bf16=True),
    "bf16 ZeRO-1": Case(("a b", "a", "b a"), 3, zero=1, bf16=True),
}


def train(case: Case, steps: range, load: str = "", save: str = "") -> tuple[list[float], Any]:
    """Return each step's loss and the stage's state afterwards."""
    model, stages, loss = build(case)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(bool(load))  # nothing but the checkpoint may bring the weights back
    engine = engine_of(case, partition_modules(stages), loss)
    if load:
        engine.load_checkpoint(load, tag="checkpoint")
    losses = [engine.train_batch(case.batches(step, 0)).item() for step in steps]
    if save:
        engine.save_checkpoint(save, tag="checkpoint")
    state = {name: value.float().numpy() for name, value in engine.module.state_dict().items()}
    return losses, state


def stopped_and_not(rank: Rank, folder: str) -> dict[str, Any]:
    join()
    results = {}
    for name, case in CASES.items():
        path = str(Path(folder, name))
        train(case, range(STOP), save=path)
        results[name] = train(case, range(STEPS)), train(case, range(STOP, STEPS), load=path)
    return results


def test_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    for ended in values(stopped_and_not, 3, str(tmp_path)):
        for name, (through, resumed) in ended.items():
            assert resumed[0] == through[0][STOP:], name
            assert resumed[1].keys() == through[1].keys()
            for key, value in resumed[1].items():
                assert value.tobytes() == through[1][key].tobytes(), (name, key)
