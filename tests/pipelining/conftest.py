"""With a torch older than 2.13 none of these tests is collected: some schedules are not there."""

from __future__ import annotations

import torch

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)
collect_ignore_glob = ["test_*.py"] if OLD else []


def pytest_report_header() -> str | None:
    return "tests/pipelining: not run, since pipecodec.pipelining needs torch 2.13" if OLD else None
