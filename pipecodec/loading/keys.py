"""Finds how a model's tensors are made of those in a folder."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["Source", "ignored_if_missing", "kept_dtypes", "pretrained", "sources"]


@dataclass
class Source:
    """One or several tensors of the model, made of one or several of a folder.

    ``targets`` are the model's keys and ``parts`` the folder's, each with the pattern by which it
    was found. Without a converter there is one of each, and they are equal.
    """

    targets: list[str]
    parts: list[tuple[str, str]] = field(default_factory=list)
    converter: Any = None
    model: Any = None

    def make(self, read: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the model's tensors by key, of the folder's, which ``read`` gives by key."""
        if self.converter is None:
            return {self.targets[0]: read(self.parts[0][1])}
        converter = copy.deepcopy(self.converter)
        for pattern, key in self.parts:
            converter.add_tensor(self.targets[0], key, pattern, lambda key=key: read(key))
        made = converter.convert(self.targets[0], model=self.model, config=self.model.config)
        return {k: v[0] if isinstance(v, list) else v for k, v in made.items()}


def sources(model: nn.Module, keys: Iterable[str]) -> tuple[dict[str, Source], list[str]]:
    """Return by the model's keys how they are made of a folder's, and the folder's other keys.

    For a ``PreTrainedModel`` names and values are converted as ``from_pretrained`` does; for any
    other model a folder's keys are those of its state dict.
    """
    if pretrained(model):
        found, others = _converted(model, keys)
    else:
        own = model.state_dict()
        found = {key: Source([key], [("", key)]) for key in keys if key in own}
        others = [key for key in keys if key not in own]
    return {target: source for source in found.values() for target in source.targets}, others


def pretrained(module: nn.Module) -> bool:
    """Tell whether a module is a ``transformers.PreTrainedModel``, without importing that."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(module, modeling.PreTrainedModel)


def ignored_if_missing(model: Any) -> Callable[[str], bool]:
    """Return a test of keys that a folder of this model may lack."""
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    return _matching(patterns if pretrained(model) else ())


def kept_dtypes(model: Any, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Return the dtype that a tensor of this key gets where ``dtype`` is asked for."""
    plan: dict[str, torch.dtype] = model._get_dtype_plan(dtype) if pretrained(model) else {}
    rules = [(_matching([pattern.replace("*", ".*")]), kept) for pattern, kept in plan.items()]
    return lambda key: next((kept for matches, kept in rules if matches(key)), dtype)


def _converted(model: Any, keys: Iterable[str]) -> tuple[dict[str, Source], list[str]]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    own, prefix = model.state_dict(), model.base_model_prefix
    passed_over = _passed_over(model)
    found: dict[str, Source] = {}
    others = []
    for key in sorted(keys, key=dot_natural_key):
        target, pattern = rename_source_key(key, renamings, converters, prefix, own)
        if target not in own and key in own:
            target, pattern = rename_source_key(key, [], [], prefix, own)
        if target not in own:
            others += [] if passed_over(target) else [key]
        elif pattern is None and target in found:
            others.append(key)  # a second entry for one tensor
        elif pattern is None:
            found[target] = Source([target], [(key, key)])
        else:
            converter = by_pattern[pattern]
            first, *more = converter.target_patterns
            targets = [target, *(target.replace(first, each) for each in more)]
            source = found.setdefault(target, Source(targets, [], converter, model))
            source.parts.append((pattern, key))
    return found, others


def _passed_over(model: Any) -> Callable[[str], bool]:
    """Return a test of keys that ``from_pretrained`` passes over without a word."""
    patterns = set(model._keys_to_ignore_on_load_unexpected or ())
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        patterns.add(r"rotary_emb\.inv_freq")
    if any(name.endswith("position_ids") for name in buffers):
        patterns.add(r"(^|\.)position_ids$")
    return _matching(patterns)


def _matching(patterns: Sequence[str] | set[str]) -> Callable[[str], bool]:
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda key: any(pattern.search(key) for pattern in compiled)
