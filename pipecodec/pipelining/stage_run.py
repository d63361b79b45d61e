"""The work of one stage on one micro-batch: values in, the module, values out.

As ``engine.stage_module`` does it for engines that hand tensors to modules; here the engine's own
stage calls it, and a rank may have several stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..options import BoundaryOptions
from ..stages.rank_liveness import RankLiveness
from ..stages.stage import Absent, Stage, bind_inputs
from .inputs import unwrapped
from .links import RankLink
from .loss import LastValue
from .ways import WayIn, WayOut

if TYPE_CHECKING:
    from ..engine.unused_roads import Road
    from ..stages.partition import Partition

__all__ = ["StageRun"]

Module = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class StageRun:
    """Runs stage ``index`` of ``part``, whose values take the ways of ``plan``.

    ``roads`` has those of the boundaries before and behind it, ``links`` those that begin or end
    here.
    """

    def __init__(
        self,
        part: Partition,
        index: int,
        plan: RankLiveness,
        options: BoundaryOptions,
        roads: Mapping[int, Road],
        links: Sequence[RankLink],
    ) -> None:
        self.index = index
        self._plan = plan
        self._inputs = part.input_names
        self._stage = Stage(
            plan.liveness, part.stage_id_2_arg_names, index, outputs=part.outputs[index]
        )
        self.last = index == len(part.stages) - 1
        self.boundary_in: WayIn | None = None
        self.boundary_out: WayOut | None = None
        if index > 0:
            self.boundary_in = WayIn(
                f"boundary {index - 1}→{index}", plan.liveness[index], options, roads[index]
            )
        if not self.last:
            self.boundary_out = WayOut(
                f"boundary {index}→{index + 1}", plan.liveness[index + 1], options, roads[index + 1]
            )
        self.links_in = [link for link in links if link.link.target == index]
        self.links_out = [link for link in links if link.link.source == index]

    def forward(
        self,
        chunk: int,
        arrived: Sequence[torch.Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        module: Module,
        device: torch.device,
        frame: torch.Tensor | None = None,
    ) -> tuple[Any, list[torch.Tensor], list[torch.Tensor]]:
        """Run a micro-batch.

        ``arrived`` are the tensors of the boundary before the stage, whose memory becomes that
        of the values, and ``frame`` is theirs on the CPU, if it is known; ``args`` and ``kwargs``
        are the inputs that this rank was given, and ``module`` calls the stage's module. Returns
        the tensors for the next stage, or the last stage's value; the tensors whose gradients come
        in; and those whose gradients go out.
        """
        entered: list[torch.Tensor] = []
        if self.boundary_in is None:
            env, token = self._batch(args, kwargs), torch.zeros(0, device=device)
        else:
            env, token = self.boundary_in.receive(arrived, frame)
            entered.append(arrived[0])
            self._refuse_late(env, args, kwargs)
        for link in self.links_in:
            taken = link.take(chunk)
            values, other = link.way_in.receive(taken)
            link.link.resolve(env, values)
            token = torch.cat([token, other])
            entered.append(taken[0])
        if torch.is_grad_enabled() and not token.requires_grad:
            token = token.requires_grad_()
        before = {} if self.last else self._plan.before(env, self.index)
        output = module(*self._stage.arguments(env))
        if self.boundary_out is None:
            return LastValue(output, token), [], entered
        self._stage.name_outputs(env, output)
        self._plan.after(env, before, self.index)
        names = self.boundary_out.names
        sent = self.boundary_out.send(chunk, self._stage.collect(env, names), token)
        left = [sent[0]]
        for link in self.links_out:
            kept = self._stage.collect(env, link.link.names)
            tensors = link.way_out.send(chunk, kept, token)
            link.put(chunk, tensors)
            left.append(tensors[0])
        return sent, left, entered

    def ways_in(self) -> list[WayIn]:
        """Return the ways of the tensors whose gradients go out, in their order."""
        first = [] if self.boundary_in is None else [self.boundary_in]
        return [*first, *(link.way_in for link in self.links_in)]

    def ways_out(self) -> list[WayOut]:
        """Return the ways of the tensors whose gradients come in, in their order."""
        first = [] if self.boundary_out is None else [self.boundary_out]
        return [*first, *(link.way_out for link in self.links_out)]

    def codecs(self) -> list[Any]:
        """Return the codecs of this stage's ways."""
        entered = [way.codec for way in self.ways_in()]
        return [*entered, *(way.codec for way in self.ways_out())]

    def _batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = bind_inputs(self._inputs, args, kwargs)
        return self._stage.bind([unwrapped(value) for value in values])

    def _refuse_late(
        self, env: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Raise ``ValueError`` for an input that the first stage was not given, but this one was.

        The others are the first stage's already: every rank may be given the whole batch.
        """
        for name in (*self._inputs[: len(args)], *kwargs):
            if env.get(name) is Absent.ABSENT:
                raise ValueError(
                    f"stage {self.index} was given {name!r}, but the first stage was not: the "
                    f"model's inputs go in on the rank of the first stage, and reach the stages "
                    f"that use them; pass it to schedule.step there"
                )
