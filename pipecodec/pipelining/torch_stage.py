"""The stage that torch's schedules run: all that knows how torch works inside.

A schedule talks to a stage through methods that torch calls internal (torch 2.13, ``stage.py`` and
``schedules.py`` below ``torch/distributed/pipelining``). The docstrings of those that are replaced
here say why; ``torch_schedule.py`` replaces three of the schedule's. tests/pipelining/test_torch.py
says which of them moved in another torch, and ``torch_versions.py`` knows those that did.
"""

from __future__ import annotations

import sys
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.nn.parallel import DistributedDataParallel

from .. import _C
from ..engine.announcements import Announced, AnnouncementsIn, AnnouncementsOut
from ..errors import bug
from .loss import LastValue
from .own_tensors import own_parameters
from .pipeline import Pipeline, Settings
from .split_backward import first_part
from .stage_run import StageRun
from .torch_schedule import attach_if_made
from .torch_versions import begin_fsdp, group_between, keep_for_backward
from .ways import own_memory

__all__ = ["CodecStage"]


class CodecStage(PipelineStage):
    """A stage of ``settings.part`` for every schedule of torch.distributed.pipelining."""

    def __init__(
        self, settings: Settings, stage_index: int, device: torch.device, group: Any
    ) -> None:
        self.settings = settings
        self.pipeline: Pipeline | None = None
        self._tag = 0
        self._run: StageRun | None = None
        part = settings.part
        super().__init__(
            part.stages[stage_index], stage_index, len(part.stages), device, group=group
        )
        self._runtime_validate = False  # the codec compares, and says names
        # Complete, so that torch neither runs the stage for its sizes nor copies its buffers.
        self._user_meta.inputs = self._user_meta.outputs = ()
        self._arrived: dict[int, list[torch.Tensor]] = {}
        self._sent: dict[int, Sequence[torch.Tensor]] = {}
        self._tunnels: dict[int, torch.Tensor] = {}
        self._gradients: dict[int, torch.Tensor] = {}
        self._output_gradients: list[torch.Tensor] = []
        self._dynamic = settings.options.dynamic_shape
        self._ahead = settings.options.ahead
        self._said: AnnouncementsIn | None = None
        self._say: AnnouncementsOut | None = None
        self._known: Announced | None = None
        self._announced = False
        self._late: deque[int] = deque()
        self._frames: dict[int, torch.Tensor | None] = {}

    @property
    def num_stages(self) -> int:
        """The number of stages.

        A schedule asks for it when it is made: so it is found before its first step.
        """
        attach_if_made(sys._getframe(1))
        return len(self.settings.part.stages)

    @num_stages.setter
    def num_stages(self, value: int) -> None:
        """Nothing: torch's own constructor gives it."""

    @property
    def stage_index_to_group_rank(self) -> dict[int, int]:
        """The ranks of all stages, which a schedule of several stages assigns when it is made."""
        return self._placed

    @stage_index_to_group_rank.setter
    def stage_index_to_group_rank(self, value: dict[int, int]) -> None:
        self._placed = value
        attach_if_made(sys._getframe(1))

    @property
    def run(self) -> StageRun:
        """The stage's work on a micro-batch, known once the ranks are set up."""
        if self._run is None:
            raise RuntimeError(
                f"stage {self.stage_index} runs in a schedule of torch.distributed.pipelining, "
                f"which calls torch's __init__ and has not been set up: call schedule.step or eval"
            )
        return self._run

    def connect(
        self,
        run: StageRun,
        said: AnnouncementsIn | None,
        say: AnnouncementsOut | None,
        *,
        alone: bool,
    ) -> None:
        """Be set up: with the work of the stage, and what other ranks say and are told of sizes.

        ``alone`` tells that this rank has no other stage.
        """
        self._run, self._alone = run, alone
        self._said, self._say = said, say
        if self._ahead and say is not None and run.boundary_out is not None:
            run.boundary_out.codec.announce = say.say

    def start(self, call: str, chunks: int, *, anew: bool) -> None:
        """Begin the batch of a ``call``; ``anew`` where sizes may differ from the last batch's."""
        self.chunks, self._ended = chunks, 0
        # Gloo ends a process that gets another size than it expects, as in another call.
        self._tag = zlib.crc32(call.encode()) >> 1
        for kept in (self._arrived, self._sent, self._tunnels, self._gradients, self._frames):
            kept.clear()
        self._late.clear()
        for way in self.run.ways_out():
            way.start()
        if anew:
            self._known, self._announced = None, False
            for codec in self.run.codecs():
                codec.reset()
        for codec in self.run.codecs():
            codec.evaluating = not self.has_backward

    def clear_runtime_states(self) -> None:
        """Forget the last step; no buffer here outlives a micro-batch."""
        super().clear_runtime_states()
        self.bwd_cache.clear()

    def _prepare_forward_infra(
        self, num_microbatches: int, args: Any, kwargs: Any = None, has_backward: bool = False
    ) -> None:
        """Note the numbers that torch asks for.

        torch would run the stage on memory without values to learn sizes; here each boundary
        announces them before its first tensors.
        """
        self.args_recv_info = dict.fromkeys(range(num_microbatches), ())
        self.grad_recv_info = dict.fromkeys(range(num_microbatches), ())
        self.act_send_info = {}
        gradients = (not self.is_first) + len(self.run.links_in)
        self._stage_meta.inputs = (None,) * gradients  # type: ignore[assignment]

    def _prepare_backward_infra(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a gradient has the size of its tunnel."""

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """Receive into memory of the micro-batch's own, which values may keep."""
        if self.is_first:
            return []
        if self._dynamic and self._alone:
            # Not waited for here: a schedule of one stage sends a gradient together with this.
            self._late.append(fwd_chunk_id)
            return []
        return self._receive_ops(self._memory(fwd_chunk_id))

    def _memory(self, chunk: int) -> list[torch.Tensor]:
        """Return memory for a micro-batch's tensors, whose sizes the other rank says."""
        if self._said is None:
            raise bug("a stage that receives before it was set up")
        if self._known is None or self._dynamic:
            self._known = self._said.take(chunk)
        self._frames[chunk] = self._known.frame
        self._arrived[chunk] = self._known.tensors(self.device)
        return self._arrived[chunk]

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """Send the codec's tensors, after their sizes if the peer does not know them."""
        if self.is_last:
            return []
        tunnel, *others = (tensor.detach() for tensor in self._sent.pop(fwd_chunk_id))
        # A module may write into a buffer that it returned, while it is on its way.
        sent = [tunnel, *(t.clone() if _C.use_count(t) > 1 else t for t in others)]
        if self._say is not None and (not self._announced or self._dynamic) and not self._ahead:
            self._say.chunk = fwd_chunk_id
            self._say.say(sent)
            self._announced = True
        return [self._op(dist.isend, tensor, self.stage_index + 1) for tensor in sent]

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """Receive the gradient of the tunnel, the only one that is sent."""
        if self.is_last or not self.has_backward:
            return []
        gradient = torch.empty_like(self._tunnels.pop(bwd_chunk_id), requires_grad=False)
        self._gradients[bwd_chunk_id] = gradient
        return [self._op(dist.irecv, gradient, self.stage_index + 1)]

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """Send the gradient of the tunnel."""
        if self.is_first or not self.has_backward:
            return []
        gradient = cast(torch.Tensor, self.bwd_cache.pop(bwd_chunk_id)[0])
        return [self._op(dist.isend, gradient, self.stage_index - 1)]

    def set_local_fwd_input(self, prev_stage_outputs: Any, mb_index: int) -> None:
        """Take over the tensors of the stage before on this rank, but not their memory."""
        self._arrived[mb_index] = own_memory(prev_stage_outputs)

    def get_local_bwd_output(self, mb_index: int) -> Any:
        """Return the gradient of the tunnel; torch's fails in an evaluation."""
        return self.bwd_cache.pop(mb_index) if self.has_backward else None

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        """Take over the gradient from the stage behind on this rank."""
        if self.has_backward:
            (self._gradients[mb_index],) = next_stage_bwd_outputs

    def forward_one_chunk(
        self,
        fwd_chunk_id: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        save_forward_output: bool = True,
    ) -> Any:
        """Run the stage on a micro-batch's values; its errors stay as they are."""
        self._receive_late(fwd_chunk_id)
        arrived = self._arrived.pop(fwd_chunk_id, [])
        if arrived:
            arrived[0].requires_grad_(self.has_backward)
        if self._say is not None:
            self._say.chunk = fwd_chunk_id
        if self.has_backward:
            begin_fsdp(self.submod)
        output, left, entered = self.run.forward(
            fwd_chunk_id,
            arrived,
            args,
            kwargs or {},
            self._call,
            self.device,
            self._frames.pop(fwd_chunk_id, None),
        )
        keep_for_backward(self, fwd_chunk_id, tuple(left), entered)
        if self.has_backward and not self.is_last:
            self._tunnels[fwd_chunk_id] = left[0]
        if isinstance(output, LastValue):
            if len(self.output_chunks) != fwd_chunk_id and save_forward_output:
                raise ValueError(
                    f"the schedule runs micro-batch {fwd_chunk_id} as number "
                    f"{len(self.output_chunks)} on the last stage, but torch counts losses in the "
                    f"order in which it runs them: let the last stage's forwards be in order"
                )
            if save_forward_output:
                self.output_chunks.append(output)
        elif not self._is_same_rank(self.stage_index + 1):
            self._sent[fwd_chunk_id] = output
        return output

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(self.submod, DistributedDataParallel):
            with self.submod.no_sync():  # the last backward pass reduces
                return self.submod(*args, **kwargs)
        return self.submod(*args, **kwargs)

    def _retrieve_recv_grads(self, bwd_chunk_id: int) -> tuple[torch.Tensor, ...]:
        """Return the gradients of the boundary's tunnel and of links."""
        return tuple(self._output_gradients)

    def backward_one_chunk(
        self,
        bwd_chunk_id: int,
        loss: Any = None,
        full_backward: bool = True,
        last_backward: bool = False,
    ) -> None:
        """Leave unused values out, and hand the gradients of links on."""
        if not self.has_backward:
            return
        gradients = [link.gradient(bwd_chunk_id) for link in self.run.links_out]
        if not self.is_last:
            gradients.insert(0, self._gradients.pop(bwd_chunk_id))
        self._output_gradients = gradients
        replicated = isinstance(self.submod, DistributedDataParallel)
        if replicated:
            self._ended += 1
            full_backward, last_backward = True, self._ended == self.chunks
        with self._backward(bwd_chunk_id, gradients, done=full_backward):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        if replicated and last_backward:
            self.submod._check_reducer_finalized()  # type: ignore[operator]
        self._output_gradients = []
        found = self.bwd_cache[bwd_chunk_id]
        if any(gradient is None for gradient in found):
            raise bug(f"stage {self.stage_index} found no gradient for a tensor that it received")
        for link, gradient in zip(self.run.links_in, found[1:], strict=True):
            link.give_back(bwd_chunk_id, cast(torch.Tensor, gradient))
        self.bwd_cache[bwd_chunk_id] = found[:1]

    def backward_maybe_with_nosync(
        self, backward_type: str, bwd_kwargs: dict[str, Any], last_backward: bool = False
    ) -> Any:
        """Split a backward pass so that its gradients are those of one pass."""
        if backward_type == "full":
            return super().backward_maybe_with_nosync(backward_type, bwd_kwargs, last_backward)
        if isinstance(self.submod, FSDPModule):  # ``perform_reduce_grad`` reduces
            self.submod.set_is_last_backward(False)
            self.submod.set_reshard_after_backward(False)
            self.submod.set_requires_gradient_sync(False)
        if backward_type == "weight":
            bwd_kwargs["param_groups"].run()
            return (), None
        outputs, inputs = bwd_kwargs["stage_output"], bwd_kwargs["input_values"]
        rest = first_part(outputs, bwd_kwargs["output_grads"], inputs)
        gradients = tuple(tensor.grad for tensor in inputs)
        for tensor in inputs:
            tensor.grad = None
        for tensor in outputs:
            tensor.detach_()  # torch keeps them until the second part, which needs no more of them
        return gradients, rest

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """Leave unused values out here too; the backward pass of a DDP module was a full one."""
        if isinstance(self.submod, DistributedDataParallel):
            return
        with self._backward(bwd_chunk_id, [], done=True):
            super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def _post_metadata_inference_cleanup(self) -> None:
        """Do nothing: torch would delete the gradients of FSDP modules here."""

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """Leave the last step's gradients alone in an evaluation, after which torch asks too."""
        if self.has_backward:
            super().perform_reduce_grad(grad_scale_factor)
        else:
            own_parameters([self.submod])  # an optimizer may step next, on shards

    def scale_grads(self, grad_scale_factor: int) -> None:
        """Divide each gradient once, also that of a weight of two stages of this rank."""
        pipeline = self.pipeline
        if pipeline is None:
            raise bug("a stage that trains without a schedule")
        pipeline.reduced.add(self.stage_index)
        if grad_scale_factor != 1:
            unfinished = pipeline.unfinished()
            for parameter in self.submod.parameters():
                if parameter.grad is not None and id(parameter) not in unfinished:
                    parameter.grad.div_(grad_scale_factor)

    @contextmanager
    def _backward(
        self, chunk: int, gradients: Sequence[torch.Tensor | None], *, done: bool
    ) -> Iterator[None]:
        for entered in self.run.ways_in():
            entered.before_backward(chunk)
        ways = self.run.ways_out()
        for way, gradient in zip(ways, gradients or [None] * len(ways), strict=True):
            way.before_backward(chunk, gradient)
        kind = self.device.type
        # The caller's autocast is for forward passes; nodes know the precision they need.
        ambient = torch.is_autocast_enabled(kind)
        try:
            with torch.autocast(kind, enabled=False) if ambient else nullcontext():
                yield
        except RuntimeError as error:
            if error.__cause__ is not None and "Failed to run stage backward" in str(error):
                raise error.__cause__  # noqa: B904 - the error itself, which torch wraps
            raise
        finally:
            for way in ways:
                way.after_backward(chunk, done=done)

    def _op(self, kind: Any, tensor: torch.Tensor, stage: int) -> dist.P2POp:
        ends = (self.stage_index, stage) if kind is dist.isend else (stage, self.stage_index)
        peer = self._resolve_peer_global_rank(stage)
        return dist.P2POp(kind, tensor, peer, group_between(self, *ends), self._tag)

    def _receive_ops(self, tensors: Sequence[torch.Tensor]) -> list[dist.P2POp]:
        return [self._op(dist.irecv, tensor, self.stage_index - 1) for tensor in tensors]

    def _receive_late(self, chunk: int) -> None:
        """Receive the micro-batches up to this one whose sizes were not known before."""
        while chunk not in self._arrived and self._late:
            for work in [
                each.op(each.tensor, each.peer, each.group, each.tag)
                for each in self._receive_ops(self._memory(self._late.popleft()))
            ]:
                work.wait()
