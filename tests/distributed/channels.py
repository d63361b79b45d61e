"""Two ranks that open channels, through shared memory or through messages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from pipecodec.channel import channel as module

__all__ = ["LARGE", "LONG", "join", "raised", "ways"]

LONG = timedelta(seconds=30)

WAYS = {"shared memory": True, "messages": False}
ways = pytest.mark.parametrize("way", WAYS)

LARGE = 100_000
"""Elements of a tensor that does not go into a message."""


def join(way: str = "shared memory", timeout: timedelta = LONG, backend: str = "gloo") -> None:
    module.SHARED_MEMORY = WAYS[way]
    dist.init_process_group(backend, timeout=timeout)


def raised(act: Callable[[], Any]) -> tuple[str, str]:
    """Return the type and the text of the error that ``act`` raises."""
    try:
        act()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""
