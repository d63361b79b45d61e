"""The ranks of a pipeline in one process, one after the other: a copy stands for a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from pipecodec import Partition
from pipecodec.engine.token import join_loss
from pipecodec.engine.unused_roads import InGradients
from pipecodec.options import BoundaryOptions
from pipecodec.pipelining.chunk_roads import WithinRank
from pipecodec.pipelining.links import RankLink
from pipecodec.pipelining.loss import LastValue
from pipecodec.pipelining.stage_run import StageRun
from pipecodec.pipelining.ways import own_memory
from pipecodec.stages.rank_liveness import RankLiveness, rank_liveness


class Ranks:
    """Stages of ``part`` on the ranks ``owners``, in one process.

    ``sent`` counts the bytes of each boundary between two ranks, and ``values`` has the lists of
    those that crossed it last.
    """

    def __init__(
        self, part: Partition, owners: Sequence[int], *, linked: bool = True, **options: Any
    ) -> None:
        self.part, self.owners = part, owners
        count = len(part.stages)
        plan = rank_liveness(part.liveness, part.stage_id_2_arg_names, owners, part.outputs)
        self.plan = plan if linked else RankLiveness(part.liveness, [])
        boundary = BoundaryOptions(**options)
        self.links = [RankLink(link, boundary) for link in self.plan.links]
        roads: dict[int, Any] = {
            k: WithinRank() if owners[k - 1] == owners[k] else InGradients()
            for k in range(1, count)
        }
        self.runs = [
            StageRun(part, k, self.plan, boundary, roads, self.links) for k in range(count)
        ]
        self.sent = [0] * count
        self._passes: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._gradients: dict[tuple[int, int], torch.Tensor] = {}
        self._weights: dict[tuple[int, int], Any] = {}
        self.start()

    def start(self) -> None:
        """Begin a batch."""
        for link in self.links:
            link.start()
        for run in self.runs:
            for way in run.ways_out():
                way.start()

    def reset(self, training: bool) -> None:
        """Begin to train, or to evaluate."""
        for run in self.runs:
            for codec in run.codecs():
                codec.reset()
                codec.evaluating = not training

    def forward(self, chunk: int, batch: Mapping[str, Any]) -> Any:
        """Run a micro-batch through all stages and return the last one's value."""
        arrived: list[torch.Tensor] = []
        for k, run in enumerate(self.runs):
            if arrived:
                arrived[0].requires_grad_(torch.is_grad_enabled())
            output, left, entered = run.forward(
                chunk,
                arrived,
                (),
                batch if k == 0 else {},
                lambda args, kwargs, stage=self.part.stages[k]: stage(*args, **kwargs),
                torch.device("cpu"),
            )
            self._passes[k, chunk] = left, entered
            if isinstance(output, LastValue):
                self._passes[k, chunk] = output, entered
                return output.value
            if self.owners[k] == self.owners[k + 1]:
                arrived = own_memory(output)
            else:
                arrived = [tensor.detach().clone() for tensor in output]
                self.sent[k + 1] += sum(tensor.nbytes for tensor in arrived)
        raise AssertionError("there is no last stage")

    def backward(self, stage: int, chunk: int, *, split: bool = False) -> None:
        """Run the backward pass of a stage; ``split`` leaves its weights for ``weights``."""
        run = self.runs[stage]
        left, entered = self._passes.pop((stage, chunk))
        if isinstance(left, LastValue):
            roots, gradients = [join_loss(left.value, left.token)], [None]
        else:
            roots = left
            gradients = [self._gradients.pop((stage, chunk))]
            gradients += [link.gradient(chunk) for link in run.links_out]
        self._begin(run, chunk, gradients)
        if split and stage > 0:
            found, groups = stage_backward_input(
                roots, None if gradients == [None] else gradients, entered, self._parameters(stage)
            )
            self._weights[stage, chunk] = groups
        else:
            torch.autograd.backward(roots, gradients)
            found = tuple(tensor.grad for tensor in entered)
        self._end(run, chunk, done=not (split and stage > 0))
        if stage > 0:
            first, *others = found
            self._gradients[stage - 1, chunk] = first.clone()
            for link, gradient in zip(run.links_in, others, strict=True):
                link.give_back(chunk, gradient)

    def weights(self, stage: int, chunk: int) -> None:
        """End a split backward pass."""
        groups = self._weights.pop((stage, chunk), None)
        if groups is not None:
            self._begin(self.runs[stage], chunk, [])
            stage_backward_weight(self._parameters(stage), groups)
            self._end(self.runs[stage], chunk, done=True)

    def _parameters(self, stage: int) -> Any:
        return iter([p for p in self.part.stages[stage].parameters() if p.requires_grad])

    def _begin(self, run: StageRun, chunk: int, gradients: Sequence[Any]) -> None:
        for entered in run.ways_in():
            entered.before_backward(chunk)
        ways = run.ways_out()
        for way, gradient in zip(ways, gradients or [None] * len(ways), strict=False):
            way.before_backward(chunk, gradient)

    def _end(self, run: StageRun, chunk: int, *, done: bool) -> None:
        for way in run.ways_out():
            way.after_backward(chunk, done=done)
