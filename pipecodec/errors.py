"""The errors of pipecodec: a base class, and below it a class for each thing that can fail."""

from __future__ import annotations

__all__ = [
    "CodecError",
    "FrameCapacityError",
    "FrameError",
    "StructureChangedError",
    "UnsupportedTypeError",
]


class CodecError(Exception):
    """Base of every error that pipecodec raises on purpose."""


class UnsupportedTypeError(CodecError, TypeError):
    """A value that cannot cross a boundary; the message names its path and what to send instead."""


class FrameError(CodecError, ValueError):
    """Received tensors that are not what a frame says, or bytes that are no frame."""


class FrameCapacityError(CodecError, ValueError):
    """A frame that outgrew the size its boundary agreed on; raised before anything is sent."""


class StructureChangedError(CodecError, RuntimeError):
    """A structure, size or gradient flag that differs from what a boundary agreed on."""
