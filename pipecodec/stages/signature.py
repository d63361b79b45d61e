"""The parameters that a stage's forward names, also behind modules that wrap another one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import nn

__all__ = ["forward_parameters"]

_WRAPPED = ("_orig_mod", "module", "base_model", "model")
"""Where ``torch.compile``, (distributed) data parallelism, and PEFT keep the module they wrap."""


def forward_parameters(stage: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters that the forward of `stage` names, in order.

    A forward that takes only ``*args, **kwargs`` hands them on: then they are those of the module
    that `stage` wraps, as ``torch.compile``, PEFT and data parallelism do, or of its only child.
    Empty if no forward on that way names any.
    """
    for module in _wrapped_in_turn(stage):
        parameters = inspect.signature(module.forward).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if named or not parameters:
            return named
    return []


def _wrapped_in_turn(stage: nn.Module) -> Iterator[nn.Module]:
    seen: set[nn.Module] = set()
    module: nn.Module | None = stage
    while module is not None and module not in seen:
        yield module
        seen.add(module)
        children = dict(module.named_children())
        known = [children[name] for name in _WRAPPED if name in children]
        only = list(children.values()) if len(children) == 1 else []
        module = next(iter(known + only), None)
