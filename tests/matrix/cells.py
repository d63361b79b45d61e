"""The combinations of versions that are run: each differs from the pinned ones in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["PINNED", "Cell", "cells"]

ROOT = Path(__file__).resolve().parents[2]

# The lowest and the newest of each range in pyproject.toml. The pinned DeepSpeed is both.
OTHERS = {
    "torch": ("2.9.0", "2.14.1", "2.15.0"),
    "python": ("3.10", "3.11", "3.12", "3.13", "3.14"),
    "deepspeed": (),
    "transformers": ("5.5.0", "5.24.0"),
}

# Beside the tests that start no process: one file for each engine. torch's schedules need 2.13.
QUICK = ("-m", "not slow", "--ignore=tests/test_benchmarks.py")
DEEPSPEED = ("tests/distributed/test_engine.py",)
SCHEDULES = ("tests/pipelining/test_training_models.py",)
ON_DEEPSPEED = (
    "tests/test_deepspeed_batch.py",
    "tests/test_deepspeed_guards.py",
    "tests/test_deepspeed_wrapper.py",
    "tests/distributed/test_engine.py",
    "tests/distributed/test_partition_training.py",
    "tests/distributed/test_hooks.py",
    "tests/distributed/test_tied.py",
    "tests/distributed/test_checkpoint_save.py",
)
ON_MODELS = (
    "tests/test_partition_models.py",
    "tests/test_doctor_models.py",
    "tests/test_loading_folders.py",
    "tests/distributed/test_partition_training.py",
)


@dataclass(frozen=True)
class Cell:
    """One combination of versions; ``python`` is a minor version such as "3.11"."""

    python: str
    torch: str
    deepspeed: str
    transformers: str

    def __str__(self) -> str:
        return (
            f"python {self.python}, torch {self.torch}, deepspeed {self.deepspeed}, "
            f"transformers {self.transformers}"
        )

    def runs(self) -> list[list[str]]:
        """Return pytest's arguments, one list for each time that it is run."""
        if self.deepspeed != PINNED.deepspeed:
            return [[*ON_DEEPSPEED]]
        if self.transformers != PINNED.transformers:
            return [[*ON_MODELS]]
        new = tuple(map(int, self.torch.split(".")[:2])) >= (2, 13)
        return [[*QUICK], [*DEEPSPEED, *(SCHEDULES if new else ())]]


def _pin(name: str) -> str:
    lines = "".join(path.read_text() for path in sorted((ROOT / "requirements").glob("*.txt")))
    found = re.search(rf"^{name}==(\S+)$", lines, re.MULTILINE)
    if found is None:
        raise ValueError(f"requirements/ has no line '{name}==VERSION'")
    return found[1]


PINNED = Cell("3.11", *map(_pin, ("torch", "deepspeed", "transformers")))


def cells() -> list[Cell]:
    """Return all combinations; those that share an environment follow one another."""
    found = [PINNED] + [
        replace(PINNED, **{name: version}) for name in OTHERS for version in OTHERS[name]
    ]
    unique = list(dict.fromkeys(found))
    order = list(dict.fromkeys((cell.python, cell.torch) for cell in unique))
    return sorted(unique, key=lambda cell: order.index((cell.python, cell.torch)))
