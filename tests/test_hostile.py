"""The cost of hostile frames: memory of a bounded multiple of their size, and no more time."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.hostile import frames

SIZE = 100_000
ONCE = 4 << 20  # bytes that the first call of a process takes in addition

# Bytes of memory for each byte of the frame. A value of empty sets is the worst that can be had:
# two bytes of a frame are one object of more than 200, remembered and built.
REFUSED, BUILT, DESCRIBED = 40, 500, 2000


@functools.cache
def costs() -> dict[str, dict[str, Any]]:
    """Return the lines of ``python -m tests.hostile``, by name."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", str(SIZE)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", frames(1000))
def test_a_hostile_frame_costs_little(name: str) -> None:
    cost = costs()[name]
    assert "died" not in cost, "it crashed or took too long"
    for way, built in (("unpack", BUILT), ("codec", BUILT), ("describe", DESCRIBED)):
        ended, memory = cost[way]
        assert ended == "value" or ended.startswith("FrameError: ")
        assert memory < ONCE + cost["bytes"] * (built if ended == "value" else REFUSED)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("a huge count", "9223372036854775808 items are announced, 0 bytes are left"),
        ("a huge count of pairs", "9223372036854775809 items are announced, 0 bytes"),
        ("a maxlen too large", "a deque's maxlen is too large"),
        ("lists too deep", "containers are nested more than 1000 deep"),
        ("keys of one hash", "the keys collide: "),
        ("a range of long ints", "a range has a number of more than 1024 bytes"),
        ("a long key above many leaves", "tensors[0], outputs[(None, None, "),
    ],
)
def test_what_is_refused(name: str, error: str) -> None:
    assert error in costs()[name]["unpack"][0]
