"""Random tests draw the same in every run, and others with another PIPECODEC_SEED."""

from __future__ import annotations

import os
import zlib

import hypothesis
import pytest

BASE = os.environ.get("PIPECODEC_SEED", "")

hypothesis.settings.register_profile("repeatable", derandomize=not BASE)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A 32-bit seed of the test's own; the same base gives it again."""
    drawn = zlib.crc32(f"{BASE} {request.node.name}".encode())
    print(f"seed {drawn}, with PIPECODEC_SEED={BASE!r}")
    return drawn
