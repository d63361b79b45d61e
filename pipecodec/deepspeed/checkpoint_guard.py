"""Checkpoints of an engine: saved and loaded by all ranks or by none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checkpoint_load import loading
from .checkpoint_save import saving

if TYPE_CHECKING:
    from ..partition import Partition

__all__ = ["guard_checkpoints"]


def guard_checkpoints(engine: Any, part: Partition) -> None:
    """Let both methods of this engine do as ``saving`` and ``loading`` say."""
    engine.save_checkpoint = saving(engine, part)
    engine.load_checkpoint = loading(engine, part)
