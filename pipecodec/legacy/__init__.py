"""Names of the file this project grew out of, under which others may import them."""

from __future__ import annotations

from .flattening import *  # noqa: F403
from .flattening import __all__ as __all__
