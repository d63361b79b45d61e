"""Shared by all tests: repeatable randomness, and the rule of the quick ones.

Random tests draw the same in every run, and others with another PIPECODEC_SEED.

The tests that ``make quick`` leaves out are marked ``slow``. The others start no process and
compile nothing, which takes a process too.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

BASE = os.environ.get("PIPECODEC_SEED", "")

hypothesis.settings.register_profile("repeatable", derandomize=not BASE)
hypothesis.settings.load_profile("repeatable")

TESTS = Path(__file__).resolve().parent
SLOW = {
    "cuda",
    "distributed",
    "docs",
    "pipelining",
    "test_benchmarks_command.py",
    "test_boundary_benchmark.py",
    "test_campaign.py",
    "test_demo.py",
    "test_demo_torch.py",
    "test_examples.py",
    "test_hostile.py",
    "test_packaging.py",
    "test_round_trips.py",
    "test_sources.py",
    "test_streams.py",
    "test_unread.py",
}
"""Folders and modules of which every test is slow; single tests have ``@pytest.mark.slow``."""

STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
running: list[str] = []  # the quick test, if it is one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in SLOW:
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if item.get_closest_marker("slow") is None:
        running.append(item.nodeid)
    try:
        return (yield)
    finally:
        running.clear()


def refuse_processes(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS and running and arguments[:1] != ("uname",):  # of platform.processor
        pytest.fail(f"{running[0]} starts a process ({arguments[:1]}): mark it as slow")


sys.addaudithook(refuse_processes)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A 32-bit seed of the test's own; the same base gives it again."""
    drawn = zlib.crc32(f"{BASE} {request.node.name}".encode())
    print(f"seed {drawn}, with PIPECODEC_SEED={BASE!r}")
    return drawn
