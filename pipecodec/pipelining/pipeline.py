"""This rank's stages of one pipeline, and the rules that its ranks agreed on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from .. import _C
from ..arguments import described
from ..engine.agree import OBSERVED_MODEL, agree
from ..engine.announcements import AnnouncementsIn, AnnouncementsOut
from ..engine.boundary_roads import open_boundaries
from ..engine.failure import SharedCalls
from ..engine.unused_roads import Road, across_ranks
from ..engine.watcher import watcher
from ..options import BoundaryOptions
from ..roads import timeout_of
from ..stages.rank_liveness import rank_liveness
from .chunk_roads import WithinRank
from .host_group import host_group
from .links import RankLink
from .own_tensors import own_parameters
from .placement import found_owners, name_of, refuse_other_owners
from .stage_run import StageRun
from .tied_weights import TiedWeights

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["Pipeline", "Settings"]


@dataclass(frozen=True)
class Settings:
    """The arguments of ``build_stage`` that are the same for all stages."""

    part: Partition
    options: BoundaryOptions
    share_errors: bool
    stall_timeout: float | None

    def describe(self) -> dict[str, Any]:
        """Return all that has to be the same on all ranks, by the names that messages show."""
        part = self.part
        return {
            "frame format": _C.FORMAT_VERSION,
            "torch": torch.__version__,
            **vars(self.options),
            "share_errors": self.share_errors,
            "stall_timeout": self.stall_timeout,
            "the number of stages": len(part.stages),
            OBSERVED_MODEL: None if part.cut is None else part.cut.fingerprint,
            "the values that cross each boundary": part.liveness,
            "tied weights": part.tie_weights,
        }


class Pipeline:
    """The stages of this rank, which are ``CodecStage``s, by their number.

    All ranks of the pipeline ``set_up`` together within their first ``call``.
    """

    def __init__(self, stages: Sequence[Any]) -> None:
        self.stages = sorted(stages, key=lambda stage: stage.stage_index)
        first = self.stages[0]
        self.settings: Settings = first.settings
        self.part = self.settings.part
        self.group, self.device = first.group, first.device
        self.reduced: set[int] = set()
        self._calls: SharedCalls | None = None
        self._number = 0  # among the pipelines of this process, from 1, once it is set up
        self._ties: TiedWeights | None = None
        self._links: list[RankLink] = []
        self._roads: dict[int, Road] = {}
        self._phase: Any = None
        self._problem: str | None = None

    @classmethod
    def of(cls, stages: Any) -> Pipeline:
        """Return the pipeline of all stages of this rank: one, or a sequence of them.

        If they are not all, or of several partitions, its ``call`` raises ``ValueError``, so that
        all ranks learn of it.
        """
        given = list(stages) if isinstance(stages, Sequence) else [stages]
        own = [stage for stage in given if isinstance(getattr(stage, "settings", None), Settings)]
        if not own:
            raise ValueError(
                f"these are no stages of pipecodec.pipelining.build_stage, but "
                f"{described(stages)}; give all of this rank's, in a list if they are several"
            )
        known: Pipeline | None = next(
            (stage.pipeline for stage in own if stage.pipeline is not None), None
        )
        pipeline = cls(own) if known is None else known
        problem = pipeline._problem_of(given)
        if problem is not None:
            refused = copy.copy(pipeline)
            refused._problem = problem
            return refused
        for stage in own:
            stage.pipeline = pipeline
        return pipeline

    def _problem_of(self, given: Sequence[Any]) -> str | None:
        """Return the reason why these are not this pipeline's stages of this rank."""
        for stage in given:
            if not isinstance(getattr(stage, "settings", None), Settings):
                return (
                    f"stage {getattr(stage, 'stage_index', '?')} is a {type(stage).__name__}; make "
                    f"all stages with pipecodec.pipelining.build_stage"
                )
            if stage.settings != self.settings or stage.group is not self.group:
                return (
                    "the stages of a rank have to be built of one partition, with one group and "
                    "the same options"
                )
        if sorted(map(id, given)) != sorted(map(id, self.stages)):
            return (
                f"this rank has the stages {[s.stage_index for s in self.stages]}, but "
                f"{[s.stage_index for s in given]} are given; give all of them, each once"
            )
        return None

    @property
    def ties(self) -> TiedWeights:
        """The weights that several stages share; known once the ranks are set up."""
        self.set_up()
        return self._ties  # type: ignore[return-value]

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Be within a call of which all ranks make one named ``name``; set up in the first one."""
        with self._context(name):
            if self._problem is not None:
                raise ValueError(self._problem)
            self.set_up()
            yield

    @contextmanager
    def batch(self, schedule: Any) -> Iterator[None]:
        """Be within one batch of a schedule, whose messages are under way then."""
        training, name = schedule._has_backward, name_of(schedule)
        with self.call(name):
            refuse_other_owners(schedule, self.stages[0], self.owners)
            self.reduced.clear()
            if training:
                self.ties.before_batch()
                self._keep_gradients(schedule._n_microbatches if schedule.scale_grads else 1)
            phase = (schedule, training)
            for link in self._links:
                link.start()
            for stage in self.stages:
                stage.start(name, schedule._n_microbatches, anew=phase != self._phase)
            self._phase = phase
            if self._calls is not None:
                self._calls.busy = len(self.part.stages) > 1
            with nullcontext() if training else torch.no_grad():
                yield
            self._end(training)

    def reset(self) -> None:
        """Let the boundaries agree anew with the next batch."""
        self._phase = None

    def unfinished(self) -> set[int]:
        """Return the ids of parameters of stages whose backward passes have not all ended."""
        later = (stage for stage in self.stages if stage.stage_index not in self.reduced)
        return {id(parameter) for stage in later for parameter in stage.submod.parameters()}

    def _keep_gradients(self, divisor: int) -> None:
        """Let gradients of earlier batches be themselves after all are divided."""
        if divisor != 1:
            for parameter in own_parameters([stage.submod for stage in self.stages]):
                if parameter.grad is not None:
                    parameter.grad.mul_(divisor)

    def set_up(self) -> None:
        """Compare settings, find the ranks of all stages, and connect the stages; once."""
        if self._ties is not None:
            return
        agree(self.settings.describe, self.group)
        own = [stage.stage_index for stage in self.stages]
        owners = found_owners(own, len(self.part.stages), self.group)
        self._host = host_group(self.group)
        self._opened = open_boundaries(
            owners,
            self.group,
            lambda: self._host,
            forward=True,
            backward=not self._reads_gradients(),
        )
        part = self.part
        plan = rank_liveness(part.liveness, part.stage_id_2_arg_names, owners, part.outputs)
        options = self.settings.options
        self._links = [RankLink(link, options) for link in plan.links if link.source in own]
        for stage in self.stages:
            for boundary in {stage.stage_index, stage.stage_index + 1} - {0, len(owners)}:
                if boundary not in self._roads:
                    within = owners[boundary - 1] == owners[boundary]
                    self._roads[boundary] = (
                        WithinRank() if within else across_ranks(self._opened, boundary)
                    )
            index = stage.stage_index
            run = StageRun(self.part, index, plan, options, self._roads, self._links)
            said = self._opened.forward_receivers.get(index)
            say = self._opened.forward_senders.get(index + 1)
            stage.connect(
                run,
                None if said is None else AnnouncementsIn(said),
                None if say is None else AnnouncementsOut(say),
                alone=len(self.stages) == 1,
            )
        self.owners = owners
        self._ties = TiedWeights(
            self.part,
            {stage.stage_index: stage.submod for stage in self.stages},
            owners,
            self.group,
            self.device,
        )
        if self._calls is not None:
            self._calls.watcher.engines += 1
            self._number = self._calls.watcher.engines

    def _context(self, name: str) -> AbstractContextManager[None]:
        if not self.settings.share_errors:
            return nullcontext()
        if self._calls is None:
            self._calls = SharedCalls(watcher(), self.stages[0].stage_index)
            timeout = self.settings.stall_timeout
            judge = self._calls.watcher.judge
            judge.stall_timeout = timeout_of() if timeout is None else timeout
        number = self._number or self._calls.watcher.engines + 1
        return self._calls.call(f"pipeline {number}'s {name}" if number > 1 else name)

    def _reads_gradients(self) -> bool:
        """Return whether the host may read gradients without waiting for a device."""
        kind: str = self.device.type
        return kind == "cpu"

    def _end(self, training: bool) -> None:
        """Let no rank step, or give outputs out, before all ended the batch without an error."""
        for road in self._roads.values():
            road.finish()
        self._opened.finish()
        if self.settings.options.may_not_read(self.device):
            for stage in self.stages:
                for codec in stage.run.codecs():
                    codec.check()
        if training:
            if self._calls is not None:
                dist.all_reduce(torch.zeros(1), group=self._host)
            self.ties.after_batch()
