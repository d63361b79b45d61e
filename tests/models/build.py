"""Builds a small random model of any type, with inputs for it: ``build(mapping, model_type)``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto as auto

from .inputs import inputs_for
from .settings import settings_of
from .shrink import small_config

__all__ = ["LARGEST", "MAPPINGS", "Case", "Inputs", "build", "loss_of"]

LARGEST = 4_000_000
"""The number of parameters that a small model stays below."""

MAPPINGS: dict[str, dict[str, Any]] = {
    "causal-lm": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked-lm": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "image-classification": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "ctc": auto.MODEL_FOR_CTC_MAPPING_NAMES,
    "speech-seq2seq": auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    "audio-classification": auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "image-text-to-text": auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
}
"""Model types of each of transformers' mappings, with the names of their classes."""

COMMON: dict[str, dict[str, Any]] = {
    "causal-lm": {"is_decoder": True},
    "masked-lm": {"is_decoder": False},
    "seq2seq": {"decoder_start_token_id": 1},
    "speech-seq2seq": {"decoder_start_token_id": 1},
}
"""Overrides for all types of a mapping."""

Inputs = Callable[[int, int, int, bool], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A model in training mode; ``inputs(batch, length, seed, padded)`` are keyword arguments."""

    model: nn.Module
    inputs: Inputs
    sizes: tuple[tuple[int, int], ...]
    """Pairs of a batch size and a length that the model takes."""


def build(mapping: str, model_type: str, dropout: float = 0.0) -> Case:
    """Return a small random model of a type that transformers maps to a class.

    `dropout` is the probability of every dropout in it. Raises ValueError if the model has more
    than LARGEST parameters, and what transformers raises for a config that does not fit.
    """
    settings = settings_of(mapping, model_type)
    config = small_config(model_type, COMMON.get(mapping, {}) | settings.overrides)
    for field, inner in settings.towers.items():
        vars(config)[field] = small_config(inner["model_type"], inner)
    names = MAPPINGS[mapping][model_type]
    kind = getattr(transformers, names if isinstance(names, str) else names[0])
    if kind.config_class is not type(config):  # the class is that of a config inside
        config = next(
            (inner for inner in vars(config).values() if type(inner) is kind.config_class), config
        )
    set_dropout(config, dropout if settings.dropout else 0.0)
    if settings.attention is not None:
        config._attn_implementation = settings.attention
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in kind(config).parameters())
    if count > LARGEST:
        raise ValueError(f"{model_type} has {count} parameters with its small config")
    torch.manual_seed(0)
    model = kind(config).train()
    randomise(model)
    return Case(model, inputs_for(mapping, model, settings), settings.sizes)


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every dropout of a config and of those inside; nothing drops whole layers, or masks."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            set_dropout(value, dropout)
        elif name in ("use_cache", "apply_spec_augment"):
            setattr(config, name, False)
        elif name in ("mask_time_prob", "mask_feature_prob"):  # drawn by numpy
            setattr(config, name, 0.0)
        elif "drop" in name and type(value) in (float, int):
            value = 0.0 if "layer" in name or "path" in name else dropout
            with contextlib.suppress(StrictDataclassFieldValidationError):
                setattr(config, name, value)


def randomise(model: nn.Module) -> None:
    """Draw weights large enough that every layer has a say in the output."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() > 1 or not parameter.any() or not parameter.isfinite().all():
                parameter.normal_(0, 0.05)


def loss_of(output: Any) -> torch.Tensor:
    """Return the output's loss; without one, the mean of the squares of all that it gives."""
    loss = getattr(output, "loss", None)
    if loss is not None:
        return loss
    leaves = torch.utils._pytree.tree_leaves(output)
    floats = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    return torch.stack([leaf.float().square().mean() for leaf in floats]).sum()
