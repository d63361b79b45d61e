"""Parts that pipeline engines share; knows none of them, and imports none."""

from __future__ import annotations

__all__: list[str] = []
