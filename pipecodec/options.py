"""The options of a boundary: one object, checked when it is made, and handed on whole."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .arguments import described, flag, one_of

__all__ = ["BoundaryOptions", "Differentiable"]

Differentiable = Literal["auto", "by-dtype"] | Collection[str]


@dataclass(frozen=True, kw_only=True)
class BoundaryOptions:
    """How values cross a boundary; see :class:`pipecodec.Codec` for each of them.

    Raises ``ValueError`` for an option that has no such value, and for two that exclude each other.
    """

    capacity: int | None = None
    differentiable: Differentiable = "auto"
    read: Literal["auto", "always", "verified", "ahead"] = "auto"
    dynamic_shape: bool = False
    values: Literal["dynamic", "static"] = "dynamic"

    def __post_init__(self) -> None:
        one_of("read", self.read, "auto", "always", "verified", "ahead")
        one_of("values", self.values, "dynamic", "static")
        if isinstance(self.differentiable, str):
            one_of("differentiable", self.differentiable, "auto", "by-dtype")
        elif not _are_paths(self.differentiable):
            raise ValueError(
                f"differentiable must be 'auto', 'by-dtype' or a set of paths, not "
                f"{described(self.differentiable)}"
            )
        flag("dynamic_shape", self.dynamic_shape)
        if self.capacity is not None and not _positive_multiple(self.capacity, 256):
            raise ValueError(
                f"capacity must be a positive multiple of 256 bytes, not {described(self.capacity)}"
            )
        if self.dynamic_shape and self.read == "verified":
            raise ValueError(
                'with dynamic_shape=True every frame is read: leave out read="verified"'
            )

        if self.read == "ahead":
            object.__setattr__(self, "dynamic_shape", True)

    @property
    def reading(self) -> Literal["auto", "always", "verified"]:
        """How frames are read: each one, where shapes may change from frame to frame."""
        return "always" if self.dynamic_shape or self.read == "ahead" else self.read

    @property
    def ahead(self) -> bool:
        """Whether an engine sends frames ahead of their tensors, from host to host."""
        return self.dynamic_shape and self.read in ("auto", "ahead")

    def may_not_read(self, device: torch.device) -> bool:
        """Return whether frames on this device may go unread until they are checked."""
        return self.reading == "verified" or (self.reading == "auto" and device.type != "cpu")


def _are_paths(value: Any) -> bool:
    return isinstance(value, (list, tuple, Set)) and all(isinstance(path, str) for path in value)


def _positive_multiple(value: Any, of: int) -> bool:
    return type(value) is int and value > 0 and value % of == 0
