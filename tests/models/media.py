"""Text with the tokens of images or sounds in it: as many as the model makes features of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from .tokens import Batch, mask_of, words

__all__ = ["Media", "text_with"]

Media = Callable[[nn.Module, int, torch.Generator], Batch]
"""Makes images or sounds for a batch: (model, batch, generator) -> keyword arguments."""

Kind = Literal["image", "audio"]


def text_with(kind: Kind, media: Media) -> Callable[..., Batch]:
    """Return a maker of images or sounds, and of text that has their tokens after its first."""

    def make(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
        made = media(model, batch, generator)
        count = features(model, kind, made) // batch
        ids, labels = (words(batch, 2 + count + length, generator) for _ in range(2))
        special = special_token(model.config, kind)
        kinds = torch.zeros_like(ids)
        if special is not None and count:
            ids[:, 1 : 1 + count], labels[:, 1 : 1 + count] = special, -100
            kinds[:, 1 : 1 + count] = 1
            ids[:, 0] = getattr(model.config, "vision_start_token_id", None) or ids[:, 0]
        mask = mask_of(*ids.shape, padded)
        return made | {
            "input_ids": ids.masked_fill(mask == 0, 0),
            "attention_mask": mask,
            "labels": labels.masked_fill(mask == 0, -100),
            "mm_token_type_ids": kinds,
            "token_type_ids": kinds,
        }

    return make


def special_token(config: Any, kind: Kind) -> int | None:
    names = (f"{kind}_token_id", f"{kind}_token_index")
    return next((getattr(config, name) for name in names if getattr(config, name, None)), None)


def features(model: nn.Module, kind: Kind, media: Batch) -> int:
    """Return the number of hidden states that the model makes of images or sounds."""
    name = f"get_{kind}_features"
    owner = model if hasattr(model, name) else getattr(model, "model", None)
    make = getattr(owner, name, None)
    if make is None:
        return 0
    taken = inspect.signature(make).parameters
    if set(taken) <= {"args", "kwargs"}:  # handed on to the model inside
        taken = inspect.signature(getattr(model.model, name)).parameters
    training = model.training
    with torch.no_grad(), torch.random.fork_rng():
        made = make(**{name: value for name, value in media.items() if name in taken})
    model.train(training)
    if getattr(made, "pooler_output", None) is not None:
        made = made.pooler_output
    made = getattr(made, "last_hidden_state", made)
    leaves = made if isinstance(made, list | tuple) else [made]
    width = model.config.get_text_config().hidden_size
    return sum(leaf.numel() for leaf in leaves) // width
