"""Inputs of small models: keyword arguments of a batch, by mapping."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .pictures import captioned
from .sound import classified, transcribed
from .tokens import Batch, classes, mask_of, words

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["assistant", "captions", "codebooks", "inputs_for", "words"]


def inputs_for(
    mapping: str, model: nn.Module, settings: Settings
) -> Callable[[int, int, int, bool], Batch]:
    """Return a function of (batch, length, seed, padded) that gives what the model takes."""
    make = settings.inputs or MAKERS[mapping]
    named = set(inspect.signature(model.forward).parameters)

    def inputs(batch: int, length: int, seed: int, padded: bool) -> Batch:
        made = make(model, batch, length, torch.Generator().manual_seed(seed), padded)
        return {name: value for name, value in made.items() if name in named}

    return inputs


def language(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    mask = mask_of(batch, length, padded)
    return {
        "input_ids": words(batch, length, generator).masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "labels": words(batch, length, generator).masked_fill(mask == 0, -100),
    }


def translation(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    return language(model, batch, length, generator, padded) | {
        "labels": words(batch, length - 4, generator)
    }


def image(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    config = model.config
    for name in ("vision_config", "encoder"):
        config = getattr(config, name, config)
    size = getattr(config, "image_size", 32)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = getattr(config, "num_channels", 3)
    return {
        "pixel_values": torch.randn(batch, channels, height, width, generator=generator),
        "labels": classes(batch, generator),
    }


def pixels_as_words(
    model: nn.Module, batch: int, length: int, generator: Any, padded: bool
) -> Batch:
    """Return an image's colours as tokens, and a class."""
    return {"input_ids": words(batch, length, generator), "labels": classes(batch, generator)}


def patches(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return flat patches of images of 4 by 4 patches; a padded batch has one of 3 by 4."""
    config = getattr(model.config, "vision_config", model.config)
    shapes = torch.tensor([[4, 4]] * batch)
    mask = torch.ones(batch, 16, dtype=torch.long)
    if padded:
        shapes[-1, 0] = 3
        mask[-1, 12:] = 0
    return {
        "pixel_values": torch.randn(batch, 16, 3 * config.patch_size**2, generator=generator),
        "pixel_attention_mask": mask,
        "spatial_shapes": shapes,
        "labels": classes(batch, generator),
    }


def captions(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return words and an image in front of them."""
    pictures = image(model, batch, length, generator, padded)
    return language(model, batch, length, generator, padded) | {
        "pixel_values": pictures["pixel_values"]
    }


def codebooks(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return a row of codes for each codebook, and labels for all codebooks at once."""
    several = model.config.num_codebooks
    return language(model, batch, length, generator, padded) | {
        "input_ids": words(batch * several, length, generator),
        "labels": torch.randint(3, 90, (batch, length, several), generator=generator),
    }


def assistant(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return hidden states of a larger model and its keys and values by the layers' type."""
    text = model.config.get_text_config()
    heads = (batch, text.num_key_value_heads, length, text.head_dim)
    return {
        "inputs_embeds": torch.randn(
            batch, length, 2 * model.config.backbone_hidden_size, generator=generator
        ),
        "position_ids": torch.arange(length).expand(batch, length).clone(),
        "attention_mask": mask_of(batch, length, padded),
        "shared_kv_states": {
            name: tuple(torch.randn(heads, generator=generator) for _ in range(2))
            for name in ("sliding_attention", "full_attention")
        },
    }


MAKERS: dict[str, Callable[..., Batch]] = {
    "causal-lm": language,
    "masked-lm": language,
    "seq2seq": translation,
    "image-classification": image,
    "ctc": transcribed,
    "audio-classification": classified,
    "speech-seq2seq": transcribed,
    "image-text-to-text": captioned,
}
