"""The one error of observing and cutting a model."""

from __future__ import annotations

__all__ = ["TapeError"]


class TapeError(ValueError):
    """A model cannot be observed or cut, or a batch takes a way that was not observed.

    The text names the place in the model's code and the way out.
    """
