"""The names of :mod:`pipecodec.legacy`, under which they were first importable."""

from __future__ import annotations

from .legacy import *  # noqa: F403
from .legacy import __all__ as __all__
