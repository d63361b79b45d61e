"""Inputs of models of images and text: as many image tokens as the model makes features of images."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .tokens import Batch, mask_of, words

__all__ = [
    "captioned",
    "flat_pixels",
    "image_batch",
    "several_images",
    "siglip_patches",
    "tiled_images",
    "with_images",
]

Pictures = Callable[[nn.Module, int, torch.Generator], Batch]


SIZED = {"mistral3", "lighton_ocr", "llava_next", "llava_next_video", "llava_onevision"}
"""Types that need the sizes of images beside them."""


def image_size(config: Any) -> tuple[int, int]:
    """Return the height and width of images, in pixels."""
    size = getattr(config, "image_size", None) or 32
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def image_batch(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return an image for each row, in the form in which most models, or those like Qwen, take it."""
    if "image_grid_thw" in inspect.signature(model.forward).parameters:
        return flat_pixels(model, batch, generator)
    config = getattr(model.config, "vision_config", model.config)
    height, width = image_size(config)
    channels = getattr(config, "num_channels", 3)
    pictures = {"pixel_values": torch.randn(batch, channels, height, width, generator=generator)}
    if model.config.model_type in SIZED:
        pictures["image_sizes"] = torch.tensor([[height, width]] * batch)
    return pictures


def flat_pixels(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return 4 by 4 patches of each image, flat, and the numbers of patches."""
    config = model.config.vision_config
    channels = getattr(config, "in_channels", getattr(config, "num_channels", 3))
    numbers = channels * getattr(config, "temporal_patch_size", 1) * config.patch_size**2
    return {
        "pixel_values": torch.randn(16 * batch, numbers, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * batch),
    }


def several_images(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return a list of one image for each row, all of them whole."""
    height, width = image_size(model.config.vision_config)
    return {
        "pixel_values": torch.randn(batch, 1, 3, height, width, generator=generator),
        "pixel_attention_mask": torch.ones(batch, 1, height, width, dtype=torch.bool),
    }


def tiled_images(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return one image of two tiles for each row; only the first tile is a part of it."""
    height, width = image_size(model.config.vision_config)
    tiles = model.config.vision_config.max_num_tiles
    seen = torch.zeros(batch, 1, tiles, dtype=torch.long)
    seen[:, :, 0] = 1
    return {
        "pixel_values": torch.randn(batch, 1, tiles, 3, height, width, generator=generator),
        "aspect_ratio_ids": torch.ones(batch, 1, dtype=torch.long),
        "aspect_ratio_mask": seen,
    }


def siglip_patches(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return 4 by 4 flat patches of one image for each row."""
    numbers = 3 * model.config.vision_config.patch_size**2
    return {
        "pixel_values": torch.randn(batch, 16, numbers, generator=generator),
        "pixel_attention_mask": torch.ones(batch, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]] * batch),
    }


def captioned(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return images and text with their tokens in it."""
    return text_of(model, image_batch(model, batch, generator), batch, length, generator, padded)


def with_images(pictures: Pictures) -> Callable[..., Batch]:
    """Return a maker of images, as `pictures` gives them, and text with their tokens in it."""

    def make(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
        return text_of(model, pictures(model, batch, generator), batch, length, generator, padded)

    return make


def text_of(
    model: nn.Module, pictures: Batch, batch: int, length: int, generator: Any, padded: bool
) -> Batch:
    count = features(model, pictures) // batch
    length = 2 + count + length
    ids, labels = (words(batch, length, generator) for _ in range(2))
    config = model.config
    for name in ("image_token_id", "image_token_index"):
        if (special := getattr(config, name, None)) is not None and count:
            ids[:, 1 : 1 + count] = special
            labels[:, 1 : 1 + count] = -100
            break
    if (start := getattr(config, "vision_start_token_id", None)) is not None and count:
        ids[:, 0] = start
    mask = mask_of(batch, length, padded)
    kinds = torch.zeros_like(ids)
    kinds[:, 1 : 1 + count] = 1
    return pictures | {
        "input_ids": ids.masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "labels": labels.masked_fill(mask == 0, -100),
        "mm_token_type_ids": kinds,
        "token_type_ids": kinds,
    }


def features(model: nn.Module, pictures: Batch) -> int:
    """Return the number of hidden states that the model makes of the images: one for each token."""
    owner = model if hasattr(model, "get_image_features") else getattr(model, "model", None)
    make = getattr(owner, "get_image_features", None)
    if make is None:
        return 0
    taken = inspect.signature(make).parameters
    training = model.training
    with torch.no_grad(), torch.random.fork_rng():
        made = make(**{name: value for name, value in pictures.items() if name in taken})
    model.train(training)
    made = getattr(made, "pooler_output", made)
    leaves = made if isinstance(made, list | tuple) else [made]
    width = model.config.get_text_config().hidden_size
    return sum(leaf.numel() for leaf in leaves) // width
