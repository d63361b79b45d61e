"""pipecodec itself: a Codec on either side of the boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "NOTE", "make"]

NAME = "pipecodec"
NOTE = "Codec.pack and Codec.unpack: bytes in a tensor, checksum, every type and bit restored."


def make() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    from pipecodec import Codec

    # Two codecs, as there are two processes: the receiver knows nothing that the sender knows.
    return Codec().pack, Codec().unpack
