"""Observes a model's forward above the level of its layers, and records it as a tape."""

from __future__ import annotations
