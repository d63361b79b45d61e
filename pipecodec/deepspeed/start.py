"""Starts the ranks of a training, and lays pipelines over them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist

__all__ = ["pipelines_over_all_ranks", "starts_ranks"]

F = TypeVar("F", bound=Callable[..., Any])

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def starts_ranks(function: F) -> F:
    """Let ``function`` start torch.distributed first, from the environment, if nobody has.

    Where the user has, DeepSpeed takes it over.

    The backend is that of DeepSpeed's accelerator: gloo on the CPU, NCCL on GPUs. DeepSpeed's
    shared-memory operator, which only its inference engine calls, is not compiled meanwhile. Raises
    ``ValueError`` if the environment does not say which rank this process is.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        import deepspeed

        with _without_shared_memory_op():
            if not dist.is_initialized():
                _start()
            elif not deepspeed.comm.is_initialized():
                deepspeed.init_distributed(verbose=False)  # takes over the groups that there are
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@contextlib.contextmanager
def _without_shared_memory_op() -> Iterator[None]:
    """Keep DeepSpeed on the CPU from compiling that operator when it starts communication.

    It takes minutes and a compiler, and after a build that was interrupted every later start waits
    for its lock without end.
    """
    import deepspeed.ops

    compatible = deepspeed.ops.__compatible_ops__
    deepspeed.ops.__compatible_ops__ = {**compatible, "deepspeed_shm_comm": False}
    try:
        yield
    finally:
        deepspeed.ops.__compatible_ops__ = compatible


def _start() -> None:
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise ValueError(
            f"torch.distributed is not initialized, and the environment has no "
            f"{', '.join(missing)} to do it with: start one process for each rank with torchrun "
            f"(torchrun --nproc-per-node=4 train.py) or with DeepSpeed's launcher (deepspeed "
            f"train.py), or call deepspeed.init_distributed() first"
        )
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # Before any object is sent: torch puts it on the current device, of which each rank has one.
    get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(verbose=False)


def pipelines_over_all_ranks(stages: int, schedule: str) -> Any:
    """Return the topology of as many pipelines of this many stages as there are ranks for.

    Raises ``ValueError`` if ranks are left over.
    """
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    each = 2 if schedule == "dualpipev" else 1  # stages of a rank
    ranks, pipe = dist.get_world_size(), stages // each
    if stages % each or ranks % pipe:
        two = ", two on each rank" if each > 1 else ""
        raise ValueError(
            f"{ranks} ranks do not make whole pipelines of {stages} stages{two}; start another "
            f"number of processes, or pass topology="
        )
    return PipeDataParallelTopology(num_pp=pipe, num_dp=ranks // pipe)
