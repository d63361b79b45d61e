"""Tells in one sentence, before the extension is loaded, that it cannot run with this torch."""

from __future__ import annotations

import torch

__all__ = ["check_build"]

_REBUILD = (
    "run 'pip install --no-build-isolation --force-reinstall --no-deps .' in its source folder"
)


def check_build() -> str:
    """Return pipecodec's version.

    Raises:
        ImportError: the extension was not built against the torch that is installed.
    """
    try:
        from ._build import TORCH, VERSION
    except ImportError:
        raise ImportError(f"pipecodec's extension has not been built: {_REBUILD}") from None
    installed = torch.__version__.split("+")[0]
    if installed != TORCH:
        raise ImportError(
            f"pipecodec was built against torch {TORCH}, but torch {installed} is installed: "
            f"{_REBUILD}"
        )
    return VERSION
