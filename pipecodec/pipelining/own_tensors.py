"""The tensors of a stage, and their names in the partition, whatever wraps the stage now."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

__all__ = ["own_parameters", "partition_names"]

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""Names under which torch's wrappers (compile, checkpoint, FSDP) hold their modules."""


def own_parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return the parameters that an optimizer has of these modules, each once.

    Those of an FSDP module are its shards, to which it returns.
    """
    found: dict[int, nn.Parameter] = {}
    for module in modules:
        for each in module.modules():
            if isinstance(each, FSDPModule):
                each.reshard()
        found.update((id(parameter), parameter) for parameter in module.parameters())
    return list(found.values())


def partition_names(
    module: nn.Module, paths: Iterable[str], known: Collection[str]
) -> dict[str, str]:
    """Return for each of ``paths``, which ``module`` has now, its name in the partition.

    ``known`` are the names there. A path of which the partition knows nothing keeps its own, less
    the wrappers.
    """
    replicated = [
        f"{_without_wrappers(path)}." if path else ""
        for path, each in module.named_modules(remove_duplicate=False)
        if isinstance(each, DistributedDataParallel)
    ]
    names = {_without_wrappers(name): name for name in known}
    found = {}
    for path in paths:
        wrapped = _without_wrappers(path)
        bare = wrapped
        for owner in sorted(replicated, key=len, reverse=True):
            if bare.startswith(f"{owner}module."):
                bare = owner + bare.removeprefix(f"{owner}module.")
        found[path] = names.get(bare) or names.get(wrapped) or bare
    return found


def _without_wrappers(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)
