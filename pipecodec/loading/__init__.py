"""Gives memory and values to one stage of a model that has none."""

from __future__ import annotations

from .initial import materialize_stage
from .load import load_stage

__all__ = ["load_stage", "materialize_stage"]
