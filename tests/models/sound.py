"""Inputs of models of speech: samples or spectra, with a mask."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from .media import text_with
from .tokens import Batch, classes, mask_of, words

__all__ = ["classified", "heard", "hearing", "spectrogram", "transcribed", "whole_spectrum"]

SAMPLES, FRAMES = 320, 8
"""Samples of raw sound, and frames of a spectrum, for each unit of a length."""
WIDTHS = (
    "input_dim",
    "feature_projection_input_dim",
    "num_mel_bins",
    "input_feat_per_channel",
    "d_model",
)


def hearing(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return "input_values" or "input_features", whichever the model takes, and their mask."""
    if "input_values" in inspect.signature(model.forward).parameters:
        mask = mask_of(batch, SAMPLES * length, padded, SAMPLES * 2)
        samples = torch.randn(batch, SAMPLES * length, generator=generator)
        return {"input_values": samples * mask, "attention_mask": mask}
    mask = mask_of(batch, FRAMES * length, padded, FRAMES * 2)
    spectrum = torch.randn(batch, FRAMES * length, width_of(model.config), generator=generator)
    return {"input_features": spectrum * mask[..., None], "attention_mask": mask}


def width_of(config: Any) -> int:
    config = getattr(config, "encoder_config", config)
    return int(next(getattr(config, name) for name in WIDTHS if hasattr(config, name)))


def transcribed(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return sound and labels of `length - 8` words."""
    labels = torch.randint(3, 20, (batch, length - 8), generator=generator)
    return hearing(model, batch, length, generator, padded) | {"labels": labels}


def classified(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return sound and a class."""
    return hearing(model, batch, length, generator, padded) | {"labels": classes(batch, generator)}


def spectrogram(model: nn.Module, batch: int, length: int, generator: Any, padded: bool) -> Batch:
    """Return spectra of the only length that the model takes, and a class."""
    shape = (batch, model.config.max_length, model.config.num_mel_bins)
    return {
        "input_values": torch.randn(shape, generator=generator),
        "labels": classes(batch, generator),
    }


def whole_spectrum(
    model: nn.Module, batch: int, length: int, generator: Any, padded: bool
) -> Batch:
    """Return spectra of the only length that the model takes, with classes or words as labels."""
    shape = (batch, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    classifies = not hasattr(model, "get_output_embeddings") or hasattr(model, "classifier")
    return {
        "input_features": torch.randn(shape, generator=generator),
        "labels": classes(batch, generator) if classifies else words(batch, length - 4, generator),
    }


def spectra(model: nn.Module, batch: int, generator: torch.Generator) -> Batch:
    """Return a spectrum for each row of a language model that hears, and its mask."""
    config = getattr(model.config, "audio_config", None) or model.config.encoder_config
    frames = 2 * getattr(config, "max_source_positions", 32)
    shape = (batch, width_of(config), frames)
    if hasattr(config, "input_dim"):  # frames come first
        shape = (batch, frames, config.input_dim)
    mask = torch.ones(batch, frames, dtype=torch.long)
    return {
        "input_features": torch.randn(shape, generator=generator),
        "input_features_mask": mask,
        "feature_attention_mask": mask,
    }


heard = text_with("audio", spectra)
