"""Keeps some entries of a model's output, so that the others need not cross."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import PartitionError
from ..tape.arguments import Node
from ..tape.tape import Tape

__all__ = ["keep_outputs", "kept"]


def keep_outputs(tape: Tape, outputs: Sequence[str] | None) -> None:
    """Leave only the entries `outputs` in the result of a tape, a mapping.

    Raises PartitionError if the result is none, or has no such entry.
    """
    if outputs is None:
        return
    result = tape.result
    entries = (
        dict(zip(tape.result_keys, result.children, strict=True))
        if (isinstance(result, Node) and tape.result_keys is not None)
        else None
    )
    if entries is None or tape.result_type is None:
        raise PartitionError("outputs= names entries of the model's output, which is no mapping")
    missing = [name for name in outputs if name not in entries]
    if missing:
        raise PartitionError(
            f"outputs: the model's output has no {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, entries))}"
        )
    tape.result = Node(
        _Mapping(tape.result_type, tuple(outputs)), [entries[name] for name in outputs]
    )


def kept(output: Any, outputs: Sequence[str] | None) -> Any:
    """Return an output with the entries `outputs` alone."""
    if outputs is None:
        return output
    return _Mapping(type(output), tuple(outputs))([output[name] for name in outputs])


class _Mapping:
    """Builds a mapping of the output's type with some of its entries."""

    def __init__(self, kind: type, names: tuple[str, ...]) -> None:
        self.kind, self.names = kind, names

    def __call__(self, children: list[Any]) -> Any:
        return self.kind(**dict(zip(self.names, children, strict=True)))

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({', '.join(self.names)})"
