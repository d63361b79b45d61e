"""How long a process group waits, which is how long its roads do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

__all__ = ["timeout_of"]


def timeout_of(group: Any = None) -> float:
    """Return the timeout of a group in seconds; None: of the default one."""
    group = dist.group.WORLD if group is None else group
    for device in group._device_types:
        timeout: timedelta = group._get_backend(device).options._timeout
        return timeout.total_seconds()
    return dist.distributed_c10d.default_pg_timeout.total_seconds()
