"""The tensors that the stages of a split graph hold: the used ones, once for each weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from .ties import memory_of

__all__ = ["attribute", "fitted", "keep_persistence", "shared_parameters"]


def attribute(root: nn.Module, path: str) -> Any:
    """Return the attribute at a dotted path."""
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value


def fitted(module: nn.Module, shared: Mapping[str, nn.Parameter]) -> nn.Module:
    """Return `module` without tensors that its graphs never use, and with `shared` in their places.

    Modules below it that need no change are the same objects; the others are copies, which share
    all other tensors with it.
    """
    return _fitted(module, "", set(_used(module, "")), shared)


def _fitted(
    module: nn.Module, prefix: str, used: set[str], shared: Mapping[str, nn.Parameter]
) -> nn.Module:
    paths = [prefix + path for path, _ in _tensors(module)]
    if all(path in used and path not in shared for path in paths):
        return module
    copy: nn.Module = object.__new__(type(module))
    copy.__dict__ = {
        **module.__dict__,
        "_parameters": {
            name: shared.get(prefix + name, value)
            for name, value in module._parameters.items()
            if value is None or prefix + name in used
        },
        "_buffers": {
            name: value
            for name, value in module._buffers.items()
            if value is None or prefix + name in used
        },
        "_modules": {
            name: child and _fitted(child, f"{prefix}{name}.", used, shared)
            for name, child in module._modules.items()
        },
        "_non_persistent_buffers_set": set(module._non_persistent_buffers_set),
    }
    finalize: Any = getattr(copy, "finalize", None)
    if finalize is not None:  # an InterpreterModule keeps a second module with all its tensors
        finalize()
    return copy


def _used(module: nn.Module, prefix: str) -> Iterator[str]:
    """Yield the paths of the tensors that a module's graph uses; all of a module without one."""
    graph = getattr(module, "graph", None)
    if not isinstance(graph, fx.Graph):
        yield from (prefix + path for path, _ in _tensors(module))
        return
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            value = attribute(module, str(node.target))
            if isinstance(value, nn.Module):
                yield from _used(value, f"{prefix}{node.target}.")
            else:
                yield f"{prefix}{node.target}"


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def shared_parameters(pipe: Any, model: nn.Module | None) -> dict[str, dict[str, nn.Parameter]]:
    """Return, by stage and path, the one parameter that stands for the copies of a tied weight.

    A Pipe copies a parameter that several stages use once for each, under one of its names there;
    other names in these stages keep the original. With `model` that is the model's parameter, else
    the one of equal bits that is left in a stage, else the first copy.
    """
    shared: dict[str, dict[str, nn.Parameter]] = {}
    known = dict(model.named_parameters(remove_duplicate=False)) if model is not None else {}
    for copies in pipe.replicated_params:
        first, *_ = (pipe.split_gm.get_submodule(s).get_parameter(p) for s, p in copies.items())
        candidates = [known[path] for path in copies.values() if path in known]
        for target in copies:
            candidates += [
                parameter
                for path, parameter in pipe.split_gm.get_submodule(target).named_parameters()
                if path != copies[target] and not _constant(parameter)
            ]
        weight = next((one for one in candidates if _same(one, first)), first)
        for target, path in copies.items():
            shared.setdefault(target, {})[path] = weight
    return shared


def keep_persistence(stage: nn.Module, model: nn.Module) -> None:
    """Keep the buffers of the stage's graphs out of its state dict that the model keeps out."""
    saved = {memory_of(value) for value in model.state_dict(keep_vars=True).values()
             if isinstance(value, torch.Tensor)}  # fmt: skip
    own = {memory_of(buffer) for buffer in model.buffers()}
    for module in stage.modules():
        if type(module) is nn.Module or isinstance(getattr(module, "graph", None), fx.Graph):
            for name, buffer in module._buffers.items():
                if buffer is not None and memory_of(buffer) in own - saved:
                    module._non_persistent_buffers_set.add(name)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare to the last bit; on meta the shapes alone."""
    if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
        return False
    if one.is_meta:
        return True
    a, b = (each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (one, other))
    return torch.equal(a, b)


def _constant(parameter: torch.Tensor) -> bool:
    """Tell whether all elements are equal, as fresh biases and norms are, or unknown."""
    return parameter.is_meta or bool((parameter == parameter.reshape(-1)[:1]).all())
