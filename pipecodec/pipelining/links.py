"""A link between two stages of one rank, with its values and gradients of each micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..options import BoundaryOptions
from ..stages.rank_liveness import Link
from .chunk_roads import WithinRank
from .ways import WayIn, WayOut, own_memory

__all__ = ["RankLink"]


class RankLink:
    """Hands the values of ``link`` on, and their gradients back."""

    def __init__(self, link: Link, options: BoundaryOptions) -> None:
        self.link = link
        name = f"link {link.source}→{link.target}"
        road = WithinRank()
        self.way_out = WayOut(name, link.names, options, road)
        self.way_in = WayIn(name, link.names, options, road)
        self._values: dict[int, list[torch.Tensor]] = {}
        self._gradients: dict[int, torch.Tensor] = {}

    def put(self, chunk: int, tensors: Sequence[torch.Tensor]) -> None:
        """Keep a micro-batch's tensors for the later stage."""
        self._values[chunk] = own_memory(tensors)

    def take(self, chunk: int) -> list[torch.Tensor]:
        """Return them, the tunnel as the beginning of a graph of its own."""
        tunnel, *others = self._values.pop(chunk)
        return [tunnel.requires_grad_(torch.is_grad_enabled()), *others]

    def give_back(self, chunk: int, gradient: torch.Tensor) -> None:
        """Keep the gradient of the tunnel for the earlier stage."""
        self._gradients[chunk] = gradient

    def gradient(self, chunk: int) -> torch.Tensor:
        """Return the gradient for the earlier stage."""
        return self._gradients.pop(chunk)

    def start(self) -> None:
        """Forget the last batch."""
        self._values.clear()
        self._gradients.clear()
        self.way_out.start()
