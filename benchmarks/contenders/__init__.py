"""The contenders, one module each.

Every module has the same three names: NAME; NOTE, its work and the work that it leaves out; and
``make()``, which returns the calls ``send(value) -> wire`` and ``receive(wire) -> value``. Packages
are imported in ``make``, so that a missing one affects only its contender.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.contenders import (
    codec,
    jaxlib_leaves,
    msgpack_ext,
    msgspec_ext,
    optree_leaves,
    origin,
    origin_frombuffer,
    pickled,
    torch_cxx,
    torch_objects,
    torch_python,
)

__all__ = ["CONTENDERS", "OURS", "Contender", "available"]


class Contender(Protocol):
    """The names of a contender's module."""

    NAME: str
    NOTE: str

    def make(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]: ...


OURS: Contender = codec
CONTENDERS: tuple[Contender, ...] = (
    codec,
    origin,
    origin_frombuffer,
    jaxlib_leaves,
    optree_leaves,
    torch_python,
    torch_cxx,
    pickled,
    msgpack_ext,
    msgspec_ext,
    torch_objects,
)


def available() -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders whose packages are there, and by name the reasons of the missing ones.

    Raises:
        ImportError: pipecodec itself cannot be imported; there is nothing to compare with.
    """
    present, missing = [], {}
    for contender in CONTENDERS:
        try:
            contender.make()
        except ImportError as error:
            if contender is OURS:
                raise
            missing[contender.NAME] = f"{type(error).__name__}: {error}"
        else:
            present.append(contender)
    return present, missing
