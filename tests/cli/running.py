"""Runs the command in this process, and as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipecodec.cli import command

__all__ = ["ROOT", "invoke", "start"]

ROOT = Path(__file__).resolve().parents[2]


def invoke(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """Run the command in this process; it ends as it would end the process."""
    return CliRunner().invoke(command, [str(each) for each in arguments], input=stdin)


def start(
    *arguments: str | Path, folder: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        **options.pop("environment", {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "pipecodec", *map(str, arguments)],
        cwd=folder,
        env=environment,
        timeout=120,
        **({"capture_output": True} | options),
    )
