"""The fuzzer's seeds: ``python -m tests.seeds FOLDER`` writes the frames of the corpus there.

One file for each frame, without padding: the corpus packed with both transports, and the golden
frames.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pipecodec import Codec, UnsupportedTypeError
from tests.corpus import structures
from tests.golden import read_golden


def seeds() -> Iterator[bytes]:
    """Return the bytes of every seed."""
    for value in structures().values():
        for transport in ("slots", "tunnel"):
            try:
                frame = Codec(transport=transport).pack(value)[-1].numpy().tobytes()
            except UnsupportedTypeError:
                continue  # a tensor that no tunnel carries
            yield frame[: int.from_bytes(frame[8:16], "little")]
    for golden in read_golden():
        yield golden.frame


def main() -> None:
    """Write the seeds into the folder named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.seeds FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    frames = set(seeds())
    for i, frame in enumerate(sorted(frames)):
        (folder / f"{i:03}").write_bytes(frame)
    print(f"{len(frames)} seeds, {sum(map(len, frames))} bytes")


if __name__ == "__main__":
    main()
