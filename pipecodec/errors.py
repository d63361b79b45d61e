"""The errors of pipecodec: those of values and frames are a ``CodecError``, that of a cut is not.

An error of another rank is a ``RemoteError`` (in ``pipecodec.deepspeed`` and ``.pipelining``). A
bug of pipecodec's own is an :class:`InternalError`, which is none of them.
"""

from __future__ import annotations

import os
import sys

__all__ = [
    "CodecError",
    "FrameCapacityError",
    "FrameError",
    "InternalError",
    "PartitionError",
    "StructureChangedError",
    "UnsupportedTypeError",
]


class CodecError(Exception):
    """Base of the errors about values, and the frames that carry them across a boundary."""


class UnsupportedTypeError(CodecError, TypeError):
    """Refuses a value that cannot cross a boundary; names its path and a replacement."""


class PartitionError(ValueError):
    """Says that a model cannot be observed or cut, or a batch takes a way not observed.

    The text names the place in the model's code and the way out.
    """


class FrameError(CodecError, ValueError):
    """Refuses received tensors that do not fit their frame, or bytes that are no frame.

    Attributes:
        reason: the way in which the frame's bytes are wrong, such as ``"checksum"`` or
            ``"truncated"``: one of the texts in section 7 of docs/format.md, which stay as they
            are. None where the bytes are right and something else is not, such as a tensor beside
            the frame.
        offset: where in the frame that was seen, in bytes from its begin; None without a reason.

    Both are kept when the error is copied or pickled.
    """

    reason: str | None = None
    offset: int | None = None


class FrameCapacityError(CodecError, ValueError):
    """Refuses a frame larger than its boundary's; raised before anything is sent."""


class StructureChangedError(CodecError, RuntimeError):
    """Refuses a structure, size or gradient flag that differs from a boundary's first ones."""


class InternalError(RuntimeError):
    """A bug of pipecodec's own, whatever it was given.

    The message begins with the file and the line that found it. The compiled part raises it with
    the whole message, Python code through :func:`bug`.
    """


def bug(broken: str) -> InternalError:
    """Return the error to raise where something does not hold that no input can break."""
    caller = sys._getframe(1)
    file = os.path.relpath(caller.f_code.co_filename, os.path.dirname(os.path.dirname(__file__)))
    return InternalError(
        f"{file}:{caller.f_lineno}: {broken}; this is a bug of pipecodec: please report it with "
        "this text"
    )
