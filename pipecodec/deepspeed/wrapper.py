"""A pipeline stage as DeepSpeed's pipeline engine runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from ..engine.stage_module import StageModule
from ..options import BoundaryOptions, Differentiable
from ..registry import register_framework_dialect
from ..stages.liveness import Arg
from ..stages.local_inputs import LocalInputs

__all__ = ["DeepSpeedPipeStageWrapper"]


@register_framework_dialect("deepspeed", "pipeline_stage")
class DeepSpeedPipeStageWrapper(StageModule):
    """Runs stage ``stage_id`` of ``total_stages`` on named values; see ``StageModule``.

    ``capacity``, ``differentiable``, ``dynamic_shape``, ``read`` and ``values`` are the options of
    the boundaries before and after it, see :class:`pipecodec.Codec`; ``options``, if given, is all
    of them. Raises ``ValueError`` for an option that has no such value.
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
        outputs: str | Sequence[str] | None = None,
        capacity: int | None = None,
        differentiable: Differentiable = "auto",
        dynamic_shape: bool = False,
        read: Literal["auto", "always", "verified", "ahead"] = "auto",
        values: Literal["dynamic", "static"] = "dynamic",
        recomputes: bool = False,
        options: BoundaryOptions | None = None,
        packed_batches: bool = False,
        in_loss: bool = False,
        local: LocalInputs | None = None,
    ) -> None:
        if options is None:
            options = BoundaryOptions(
                capacity=capacity,
                differentiable=differentiable,
                dynamic_shape=dynamic_shape,
                read=read,
                values=values,
            )
        super().__init__(
            mod,
            stage_id,
            name,
            total_stages,
            liveness,
            stage_id_2_arg_names,
            outputs=outputs,
            options=options,
            recomputes=recomputes,
            packed_batches=packed_batches,
            in_loss=in_loss,
            local=local,
        )
