"""The golden frames of tests/data/golden_frames.txt: reading them, and writing those that are new.

A frame there is

    frame   its name
    value   the value, as Python: packed with ``pack``
    tunnel  instead of ``value``: packed with a codec of transport "tunnel"
    unpack  instead of ``value``: a frame made by hand, which this version reads but does not write
    beside  a tensor beside the frame, as Python (after ``tunnel`` only)

and then, indented, its bytes in hexadecimal, section by section. ``python -m tests.golden`` adds
the bytes of frames that have none yet; it changes no others.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import torch

from pipecodec import Codec
from tests import corpus, oracle

__all__ = ["PATH", "Golden", "read_golden"]

PATH = Path(__file__).parent / "data" / "golden_frames.txt"
_SECTIONS = "header used lengths hashes structure shapes zeros values zeros payload".split()


@dataclasses.dataclass
class Golden:
    """One frame of the file; ``frame`` is empty where its bytes are still to be written."""

    name: str
    kind: str = ""
    expression: str = ""
    beside_expressions: list[str] = dataclasses.field(default_factory=list)
    frame: bytes = b""

    @property
    def value(self) -> Any:
        """Return a new value, with tensors of its own."""
        return _evaluate(self.expression)

    @property
    def beside(self) -> list[torch.Tensor]:
        """Return the tensors beside the frame, for kind "tunnel"."""
        return [_evaluate(expression) for expression in self.beside_expressions]

    @property
    def structure(self) -> bytes:
        """Return the frame's structure section."""
        return self.frame[48 : 48 + int.from_bytes(self.frame[16:20], "little")]


def _evaluate(expression: str) -> Any:
    names = {**vars(corpus), "collections": collections, "math": math, "DTYPES": oracle.DTYPES}
    return eval(expression, names)


def read_golden() -> list[Golden]:
    """Return all frames of the file, in its order."""
    found: list[Golden] = []
    for line in PATH.read_text().splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if line.startswith(" "):
            found[-1].frame += bytes.fromhex(rest)
        elif word == "frame":
            found.append(Golden(rest))
        elif word == "beside":
            found[-1].beside_expressions.append(rest)
        elif word in ("value", "tunnel", "unpack"):
            found[-1].kind, found[-1].expression = word, rest
    return found


def _lines(frame: bytes) -> list[str]:
    structure, shapes, values = struct.unpack("<III", frame[16:28])
    ends = [8, 16, 32, 48, 48 + structure, 48 + structure + shapes]
    ends += [-(-ends[-1] // 8) * 8]
    ends += [ends[-1] + values]
    ends += [-(-ends[-1] // 16) * 16, len(frame)]
    return [
        f"  {section:9} {frame[at : min(at + 32, end)].hex(' ')}"
        for section, begin, end in zip(_SECTIONS, [0, *ends[:-1]], ends, strict=True)
        for at in range(begin, end, 32)
    ]


def main() -> None:
    """Write the bytes of the frames that have none."""
    missing = {
        golden.name: golden
        for golden in read_golden()
        if not golden.frame and golden.kind != "unpack"
    }
    lines: list[str] = []
    last = None
    for line in [*PATH.read_text().splitlines(), ""]:
        if not line.strip() and last is not None:
            codec = Codec(transport="tunnel") if last.kind == "tunnel" else Codec()
            frame = codec.pack(last.value)[-1].numpy().tobytes()
            lines += _lines(frame[: int.from_bytes(frame[8:16], "little")])
            last = None
        if line.startswith("frame "):
            last = missing.get(line.partition(" ")[2].strip())
        lines.append(line)
    PATH.write_text("\n".join(lines).rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
