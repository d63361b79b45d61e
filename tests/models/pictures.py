"""Inputs of models of images and text: one image token for each feature of an image."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from .media import text_with
from .tokens import Batch, words

__all__ = [
    "captioned",
    "flat_pixels",
    "image_batch",
    "placed_patches",
    "questions",
    "several_images",
    "siglip_patches",
    "square_patches",
    "tiled_images",
    "whole_and_part",
]


SIZED = {"mistral3", "lighton_ocr"}
"""Types that need the sizes of images beside them."""


def image_size(config: Any) -> tuple[int, int]:
    """Return the height and width of images, in pixels."""
    size = getattr(config, "image_size", None) or 32
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def image_batch(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return an image for each row, in the usual form, or in that of models like Qwen."""
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


def square_patches(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return the patches of `flat_pixels`, each [channels, size, size]."""
    flat = flat_pixels(model, batch, generator)
    size = model.config.vision_config.patch_size
    return flat | {"pixel_values": flat["pixel_values"].view(16 * batch, -1, size, size)}


def several_images(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return a list of one image for each row, all of them whole."""
    height, width = image_size(model.config.vision_config)
    return {
        "pixel_values": torch.randn(batch, 1, 3, height, width, generator=generator),
        "pixel_attention_mask": torch.ones(batch, 1, height, width, dtype=torch.bool),
    }


def whole_and_part(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return for each row an image as a whole and its only part."""
    height, width = image_size(model.config.vision_config)
    return {
        "pixel_values": torch.randn(batch, 2, 3, height, width, generator=generator),
        "image_sizes": torch.tensor([[height, width]] * batch),
    }


def placed_patches(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return 6 by 6 flat patches of one image for each row, and their places."""
    numbers = 3 * model.config.vision_config.patch_size**2
    places = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    return {
        "pixel_values": torch.rand(batch, 36, numbers, generator=generator),
        "image_position_ids": places.expand(batch, 36, 2).clone(),
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


def asked(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return an image and a question about it for each row."""
    ids = words(batch, 5, generator)
    return image_batch(model, batch, generator) | {"qformer_input_ids": ids}


captioned = text_with("image", image_batch)
questions = text_with("image", asked)
