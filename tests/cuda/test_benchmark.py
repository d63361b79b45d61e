"""The GPU's benchmark runs; on the CPU its numbers mean nothing."""

from __future__ import annotations

import sys

import pytest

from .toolkit import ROOT

# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(ROOT))

from benchmarks.gpu import main

from .gpu import DEVICES


@pytest.mark.parametrize("device", DEVICES)
def test_command(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--device", device])
    printed = capsys.readouterr().out
    assert printed.count("torch.cat") == 3 and printed.count("GB/s") == 12
