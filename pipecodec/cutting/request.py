"""The arguments of partition: which are refused, and the batches that they are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..arguments import described, instance, items, names, one_of, whole_number
from ..errors import PartitionError
from ..no_memory import has_no_memory
from ..stages.stage import check_no_whole_batch
from ..tape.batch import Batch
from .balance import Balance

__all__ = ["Example", "Verify", "batch_of", "check_arguments", "check_model", "example_of"]

Verify = Literal["values", "structure", False]
Example = Mapping[str, Any] | Sequence[Any]

_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "torch.compile",
    "torch.nn.parallel.data_parallel.DataParallel": "torch.nn.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel": "DistributedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "FSDP",
}


def check_model(model: Any) -> None:
    """Refuse all that cannot be observed: no module, one around the model, one without shapes."""
    instance("model", model, nn.Module, "a torch.nn.Module")
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model is a torch.jit.ScriptModule, whose code cannot be observed; pass "
            "the module that was scripted"
        )
    if kind in _WRAPPERS:
        raise TypeError(
            f"model is wrapped in {_WRAPPERS[kind]}; pass the module inside it, and "
            f"wrap the stages instead"
        )
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise PartitionError(
            f"{lazy[0]} gets its shape in the first forward; run the model once before"
        )


def check_arguments(
    model: nn.Module,
    n_stages: int | None,
    split: Sequence[str] | None,
    balance: Balance,
    verify: Verify,
    recompute: bool | None,
) -> None:
    """Raise TypeError or ValueError for the first argument of partition that is no such object."""
    if n_stages is None and split is None:
        raise ValueError("partition needs n_stages= (how many stages) or split= (where they begin)")
    if n_stages is not None:
        whole_number("n_stages", n_stages, "a number of stages, at least 1", 1)
    if split is not None:
        names("split", split)
    if n_stages is not None and split is not None and n_stages != len(split) + 1:
        raise ValueError(
            f"split names {len(split)} cuts, which make {len(split) + 1} stages, not {n_stages}"
        )
    one_of("verify", verify, "values", "structure", False)
    one_of("recompute", recompute, True, False, None)
    if isinstance(balance, str):
        if balance == "time" and has_no_memory(model):
            raise ValueError(
                'balance="time" needs a model with memory, whose layers can be timed; for one on '
                'meta or of fake tensors pass weights, or "parameters"'
            )
        if balance not in ("parameters", "time"):
            raise ValueError(
                f'balance must be "parameters", "time" or a list of weights, not {balance!r}'
            )
    elif n_stages is None or not _are_weights(balance, n_stages):
        raise ValueError(
            f'balance must be "parameters", "time" or a list of one positive weight for each of '
            f"n_stages stages, not {_weights(balance)}"
        )


def _are_weights(balance: Any, n_stages: int) -> bool:
    try:
        weights = [float(weight) for weight in balance]
    except (TypeError, ValueError):
        return False
    return len(weights) == n_stages and all(0 < weight < math.inf for weight in weights)


def _weights(balance: Any) -> str:
    return repr(balance) if isinstance(balance, (list, tuple)) else described(balance)


def batch_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Batch:
    """Return the batch of ``args`` and ``kwargs``."""
    hint = "; pass it as kwargs=" if isinstance(args, Mapping) else "; pass (value,) for one"
    given = items("args", args, "a tuple of the model's positional arguments", hint)
    if len(given) == 1 and not kwargs:
        check_no_whole_batch(list(inspect.signature(model.forward).parameters), given[0], "kwargs=")
    instance("kwargs", kwargs, (Mapping, type(None)), "a dict of the model's keyword arguments")
    for name in kwargs or {}:
        instance("kwargs", name, str, "a dict whose keys are the names of arguments")
    return Batch.of(model, given, kwargs or {})


def example_of(model: nn.Module, example: Example) -> Batch:
    """Return the batch of an entry of ``examples``."""
    if isinstance(example, Mapping):
        return Batch.of(model, (), example)
    if isinstance(example, (tuple, list)):
        return Batch.of(model, example, {})
    raise TypeError(
        f"examples must be a list of batches, each a dict of keyword arguments or a tuple, but "
        f"holds {described(example)}"
    )
