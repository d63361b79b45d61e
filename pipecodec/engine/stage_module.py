"""A pipeline stage as an unpatched engine can run it: tensors in, tensors out.

Between two stages one micro-batch goes this way; the numbers are cited below.

1. the engine hands over the received tensors: (tunnel, slots..., frame)
2. the codec turns it into the values named by ``liveness[stage_id]`` and a token, a tensor without
   elements through which backward reaches the tunnel even if no value leads there
3. the module runs on the values that its arguments name
4. its results are named, and the values named by ``liveness[stage_id + 1]`` are collected
5. the codec turns them, and the token, into (tunnel, slots..., frame) for the engine to send
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from .. import _C
from ..codec import TunnelCodec
from ..errors import bug
from ..options import BoundaryOptions
from ..stages.liveness import Arg, arg_name
from ..stages.local_inputs import LocalInputs
from ..stages.stage import Stage, bind_inputs
from .ending import Ending
from .error_text import note
from .last_batches import LastBatches
from .packed_batches import PackedBatches
from .recompute import statistics_kept
from .token import join

__all__ = ["StageModule"]


class StageModule(nn.Module):
    """Runs stage ``stage_id`` of ``total_stages`` on named values.

    ``liveness`` and ``stage_id_2_arg_names`` are as in :class:`pipecodec.stages.liveness.Liveness`;
    ``outputs`` declares this stage's outputs, as in :func:`pipecodec.partition_modules`;
    ``name`` is the prefix of their canonical names (``submod_<stage_id>``).
    ``options`` are those of the boundaries before and after it. ``recomputes`` tells that the
    engine runs the stage again from the tensors it received (activation checkpointing): they are
    left as they are. With ``packed_batches`` stage 0 takes batches as ``batches`` packs them, else
    the model's inputs. With ``in_loss`` the last stage ends in the loss that ``loss.loss_of`` makes
    of ``ending``, else it ties every floating-point tensor of its output to its input itself.
    With ``local`` the last stage takes these inputs out of ``last_batches``, and ``liveness`` is
    that of ``local``. ``batches``, ``ending`` and ``last_batches`` are None on all other stages.
    ``incoming`` and ``outgoing`` are the codecs of the stage's inputs and outputs, None where
    nothing is packed.

    A module without a trainable parameter gets one of one element, ``anchor``, whose gradient is
    always zero: an engine needs a parameter in every stage. ``add_filler`` makes others for the
    optimizer's groups, which have no gradient. Neither is in the state dict.
    """

    def __init__(
        self,
        mod: nn.Module,
        stage_id: int,
        name: str,
        total_stages: int,
        liveness: Mapping[int, Sequence[str]] | Sequence[Sequence[str]],
        stage_id_2_arg_names: Mapping[int, Sequence[Arg]],
        *,
        outputs: str | Sequence[str] | None,
        options: BoundaryOptions,
        recomputes: bool,
        packed_batches: bool,
        in_loss: bool,
        local: LocalInputs | None = None,
    ) -> None:
        super().__init__()
        self.mod = mod
        self.stage_id = stage_id
        self.name = name
        self.total_stages = total_stages
        self.last = stage_id == total_stages - 1
        self.local = LocalInputs.none(liveness) if local is None else local
        self.liveness = liveness = self.local.liveness
        self.stage_id_2_arg_names = stage_id_2_arg_names
        self._inputs = [arg_name(arg) for arg in stage_id_2_arg_names[-1]]
        self._stage = Stage(
            _in_input_order(liveness, self._inputs, total_stages),
            stage_id_2_arg_names,
            stage_id,
            outputs=outputs,
            name=name,
        )
        self.options = options
        self.dynamic_shape = options.dynamic_shape
        self.recomputes = recomputes
        self.batches: PackedBatches | None = None
        self.ending: Ending | None = None
        self.last_batches: LastBatches | None = None
        self._expected: deque[torch.Tensor | None] = deque()
        self._again: dict[int, torch.Tensor] = {}
        self.incoming: TunnelCodec | None = None
        self.outgoing: TunnelCodec | None = None
        if stage_id > 0:
            self.incoming = _boundary(stage_id, options, liveness)
        elif packed_batches:
            self.batches = PackedBatches(self._stage.live)
            self.incoming = self.batches.codec
        if not self.last:
            self.outgoing = _boundary(stage_id + 1, options, liveness)
        elif in_loss:
            self.ending = Ending()
            self.outgoing = self.ending.codec
        if self.last and self.local.names:
            self.last_batches = LastBatches(self.local.roots)
        if not any(parameter.requires_grad for parameter in mod.parameters()):
            self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the stage on a micro-batch.

        Stage 0 takes the model's inputs, at least those named by ``liveness[0]``, in the order of
        ``stage_id_2_arg_names[-1]``; they may be nested in tuples or lists by one level. Any other
        stage takes the tensors that the stage before it returned, ``(tunnel, slots..., frame)``,
        and stage 0 those of a packed batch, if batches are packed.
        Keyword arguments are further values by name. Returns such tensors in turn; the last stage
        returns its module's output. Raises ``ValueError`` if no tensor says on which device to
        work or a value is missing, and ``CodecError`` if the tensors differ from those sent.
        """
        if len(args) == 1 and isinstance(args[0], (list, tuple)):
            args = tuple(args[0])
        if not self._needs_grad_to_classify():
            return self._run(*self._receive(args, kwargs))
        with torch.enable_grad():
            sent = self._run(*self._receive(args, kwargs))
        return tuple(tensor.detach() for tensor in sent)

    def add_filler(self) -> nn.Parameter:
        """Return a new parameter of one element, zero, for a group of the optimizer without one."""
        filler = nn.Parameter(torch.zeros(1, device=next(self.parameters()).device))
        self.register_parameter(f"filler{len(self._parameters)}", filler)
        return filler

    def expect(self, frame: torch.Tensor | None) -> None:
        """Know the frame, on the CPU, of the tensors that come after those expected already.

        So no device is read for it. None: it is not known.
        """
        self._expected.append(frame)

    def start_batch(self) -> None:
        """Forget tensors that were expected and not taken, and values that were sent."""
        self._expected.clear()
        self._again.clear()
        if self.ending is not None:
            self.ending.clear()
        if self.last_batches is not None:
            self.last_batches.take(None)
        if self.outgoing is not None and self.outgoing.in_flight is not None:
            self.outgoing.in_flight.clear()

    def reset(self) -> None:
        """Forget the tensors and gradients that this stage's boundaries agreed on.

        For all stages on all ranks at the same point, after parameters were frozen or unfrozen;
        the engine's own buffers need its ``reset_activation_shape()`` then.
        """
        for codec in (self.incoming, self.outgoing):
            if codec is not None:
                codec.reset()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save nothing: its own parameters, anchor and fillers, are no part of the model."""

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        """Neither ask for anchor and fillers nor refuse them."""
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)
        for keys in lists[:2]:  # missing, unexpected
            own = (f"{prefix}anchor", f"{prefix}filler")
            keys[:] = [key for key in keys if not key.startswith(own)]

    def _receive(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the received values, by name, and the token."""
        if self.incoming is not None:
            known = self._known_frame(args)
            values, token = self.incoming.receive(args, not self.recomputes, known)
            return {**self._stage.bind(values), **kwargs}, token
        batch: list[Any] = []
        for arg in args:
            batch.extend(arg if isinstance(arg, (list, tuple)) else [arg])
        given = len(batch) + len(kwargs)
        names = self._inputs if given == len(self._inputs) else self._stage.live
        env = self._stage.bind(bind_inputs(names, batch, kwargs))
        return env, torch.zeros(0, device=_device(env), requires_grad=True)

    def _known_frame(self, tensors: Sequence[Any]) -> torch.Tensor | None:
        """Return a copy on the CPU of the frame among these tensors, if there is one."""
        if not self.recomputes:
            return self._expected.popleft() if self._expected else None
        place = tensors[-1].data_ptr() if tensors else 0
        if _C.in_backward():
            return self._again.pop(place, None)
        known = self._expected.popleft() if self._expected else None
        if known is not None:
            self._again[place] = known
        return known

    def _run(self, env: dict[str, Any], token: torch.Tensor) -> Any:
        if torch.is_grad_enabled() and not token.requires_grad:
            token = token.requires_grad_()  # a batch has no gradient, and parameters may be frozen
        anchor = self._parameters.get("anchor")
        if anchor is not None:
            token = torch.cat([token, anchor[:0].to(token.dtype)])
        if self.last_batches is not None:
            self.local.resolve(env, self.last_batches.values(self.recomputes))
        before = {} if self.last else self.local.before(env, self.stage_id)
        positional, keyword = self._stage.arguments(env)
        again = self.recomputes and _C.in_backward()
        try:
            with statistics_kept(self.mod) if again else nullcontext():
                output = self.mod(*positional, **keyword)  # 3
        except Exception as error:
            if self.last_batches is not None:
                note(
                    error,
                    f"The last stage takes {', '.join(self.local.roots)} from the batches of its "
                    f"own rank. They have to be those of the first stage's rank, in one order, as "
                    f"with one seed.",
                )
            raise
        if self.last:
            if self.ending is None:
                return join(output, token)
            return self.ending.send(output, token, self.recomputes)
        self._stage.name_outputs(env, output)
        following = self.liveness[self.stage_id + 1]
        self.local.after(env, before, following)
        values = self._stage.collect(env, following)  # 4
        if self.outgoing is None:
            raise bug("a stage before the last one that sends nothing")
        return self.outgoing.send(tuple(values), token, token.device)  # 5

    def _needs_grad_to_classify(self) -> bool:
        """Return whether only a forward with gradients can show which values are differentiable.

        Under activation checkpointing a stage runs without gradients at first. A forward of its own
        to find it out would consume random numbers.
        """
        if self.last or self.outgoing is None or torch.is_grad_enabled():
            return False
        unsettled = self.dynamic_shape or not self.outgoing.settled
        auto = self.options.differentiable == "auto"
        return self.recomputes and self.training and auto and unsettled


def _boundary(
    receiver: int,
    options: BoundaryOptions,
    liveness: Mapping[int, Sequence[str]] | Sequence[Sequence[str]],
) -> TunnelCodec:
    codec = TunnelCodec.of(options, f"boundary {receiver - 1}→{receiver}")
    codec.names = liveness[receiver]
    return codec


def _in_input_order(
    liveness: Mapping[int, Sequence[str]] | Sequence[Sequence[str]],
    inputs: Sequence[str],
    total_stages: int,
) -> dict[int, list[str]]:
    """Return a copy in which stage 0's entry has the order in which a batch holds its values.

    A split graph may list its first stage's inputs in another order than the model does.
    """
    ordered = {stage: list(liveness[stage]) for stage in range(total_stages)}
    ordered[0].sort(key=inputs.index)
    return ordered


def _device(env: Mapping[str, Any]) -> torch.device:
    for value in env.values():
        if isinstance(value, torch.Tensor):
            return value.device
    raise ValueError(
        f"stage 0 received no tensor, only {list(env)}: "
        "the device to work on is that of the first tensor in the batch; pass one"
    )
