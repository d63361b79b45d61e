"""``pipecodec inspect``: the bytes of a frame as a tree."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import BinaryIO

import click
import torch

from .. import _C
from ..errors import FrameError
from .endings import FAILED, OK, Unusable, debug_option
from .frame_text import FrameText
from .reading import MAGIC, read
from .terminal import console
from .tree import as_dict, show_tree

__all__ = ["LARGEST", "inspect"]

LARGEST = 256 << 20
"""Bytes of the largest frame that is read; its tensors commonly travel beside it."""

_CHUNK = 1 << 20
_WIDE = 1000
"""Columns where no terminal limits them, so that a node has one line."""


@click.command()
@click.argument("file", metavar="FILE|-")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout, and nothing else.")
@debug_option
def inspect(file: str, as_json: bool) -> int:
    """Show a frame's raw bytes as a tree, and where a broken one breaks.

    FILE has the bytes of the last tensor that pack gives: frame.numpy().tofile("frame.bin").
    With - they come from stdin.

    \b
    Exit codes: 0 the frame is right; 1 it is broken; 2 there is nothing to read.
    """
    data = _read(file)
    error = _verdict(data)
    frame = read(data)
    if as_json:
        json.dump(as_dict(frame, error), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show_tree(frame, error, console(sys.stdout, _WIDE))
    if error is not None:
        sys.stdout.flush()
        click.echo(f"Error: {_sentence(file, error, frame)}", err=True)
    return OK if error is None else FAILED


def _verdict(data: bytes) -> FrameError | None:
    """Return the error with which the compiled part refuses a frame."""
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0)
    try:
        _C.ReceivedFrame([tensor.to(torch.uint8)])
    except FrameError as error:
        return error
    return None


def _sentence(file: str, error: FrameError, frame: FrameText) -> str:
    name = "stdin" if file == "-" else file
    if not frame.size:
        return f"{name} is empty"
    text = str(error).removeprefix("describe: ")
    where = f", {frame.place(error.offset)}" if error.offset is not None else ""
    return f"{name} is a broken frame ({error.reason}{where}): {text}"


def _read(file: str) -> bytes:
    """Return the bytes of a file, or of stdin; of one that is no frame its beginning alone."""
    if file == "-":
        if sys.stdin is None:
            raise Unusable("cannot read stdin: it is closed")
        return _bounded(sys.stdin.buffer, "stdin")
    try:
        with open(file, "rb") as opened:
            state = os.fstat(opened.fileno())
            if stat.S_ISREG(state.st_mode) and state.st_size > LARGEST:
                raise Unusable(_too_large(file))
            return _bounded(opened, file)
    except OSError as error:
        raise Unusable(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a zero byte
        raise Unusable(f"cannot read {file!r}: {error}") from error


def _bounded(stream: BinaryIO, name: str) -> bytes:
    data = bytearray()
    while chunk := stream.read(_CHUNK):
        data += chunk
        if not data.startswith(MAGIC) and len(data) >= len(MAGIC):
            return bytes(data[:_CHUNK])
        if len(data) > LARGEST:
            raise Unusable(_too_large(name))
    return bytes(data)


def _too_large(name: str) -> str:
    return f"{name} has more than {LARGEST >> 20} MiB, the most that is read as a frame"
