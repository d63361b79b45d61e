"""Cuts an observed model into pipeline stages."""

from __future__ import annotations
