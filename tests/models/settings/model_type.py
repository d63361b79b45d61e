"""What one model type needs beside the generic sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Settings", "fields"]


Sizes = tuple[tuple[int, int], ...]
SIZES: Sizes = ((2, 12), (3, 17))


@dataclass(frozen=True)
class Settings:
    """What differs for one model type."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """Values of the config's fields; a dict for a config inside."""
    attention: str | None = None
    """The attention that transformers uses, where it is not its default."""
    inputs: Callable[..., dict[str, Any]] | None = None
    """Makes a batch: (model, batch, length, generator, padded) -> keyword arguments."""
    sizes: Sizes = SIZES
    """Batch sizes and lengths."""
    towers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Overrides of configs inside that have another "model_type" than transformers allows."""
    dropout: bool = True
    """Whether the model can be run with dropout."""


def fields(attention: str | None = None, sizes: Sizes = SIZES, **overrides: Any) -> Settings:
    """Return settings that override fields of the config."""
    return Settings(overrides, attention, sizes=sizes)
