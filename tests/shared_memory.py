"""Names of shared memory on this machine, which outlive the processes that made them."""

from __future__ import annotations

import os

__all__ = ["names"]

OF_OTHERS = ("sem.mp-", "torch_", "psm_")
"""How names begin that Python's multiprocessing and torch make, in tests that run beside this."""


def names() -> set[str]:
    """Return the names in the system's folder, but those that other tests may make meanwhile."""
    return {each for each in os.listdir("/dev/shm") if not each.startswith(OF_OTHERS)}
