"""Methods of an engine are replaced once: a stack trace shows one frame for each of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pipecodec
import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

from .harness import values

OURS = Path(pipecodec.__file__).parent


class Refused(RuntimeError):
    """Raised by the stage itself."""


class Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise Refused


class Stage(nn.Linear):
    refuses = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.refuses == "forward":
            raise Refused
        hidden = super().forward(x)
        return Refuse.apply(hidden) if self.refuses == "backward" else hidden  # type: ignore


def frames(call: Callable[[], Any]) -> list[str]:
    """Return which of the functions that an error of ``call`` went through are ours."""
    try:
        call()
    except Refused as error:
        trace = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in trace if OURS in Path(frame.filename).parents]
        return [f"{Path(frame.filename).stem}.{frame.name}" for frame in ours]
    return []


def batches() -> Iterator[Any]:
    while True:
        yield torch.ones(2, 4), torch.ones(2, 4)


def replaced(rank: Rank) -> dict[str, list[str]]:
    import deepspeed
    from deepspeed.runtime.pipe.engine import PipelineEngine
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    stage = Stage(4, 4)
    engine, *_ = pipecodec.deepspeed.initialize(
        pipecodec.partition_modules([stage]),
        topology=PipeDataParallelTopology(num_pp=1, num_dp=1),
        loss_fn=nn.functional.mse_loss,
        config={"train_micro_batch_size_per_gpu": 2, "gradient_clipping": 0.0},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        read="verified",
        differentiable="by-dtype",
    )
    engine.train_batch(batches())
    found = {
        "methods": sorted(n for n in vars(engine) if callable(getattr(PipelineEngine, n, None))),
        "instructions": sorted(
            kind.__name__
            for kind, method in engine._INSTRUCTION_MAP.items()
            if method is not PipelineEngine._INSTRUCTION_MAP[kind]
        ),
    }
    stage.refuses = "forward"
    found["evaluation"] = frames(lambda: engine.eval_batch(batches(), compute_loss=False))
    for stage.refuses in ("forward", "backward"):
        found[stage.refuses] = frames(lambda: engine.train_batch(batches()))
        engine.timers("train_batch").reset()  # the engine leaves it running
    return found


def test_a_stack_trace_shows_one_frame_for_each_replaced_method() -> None:
    (found,) = values(replaced, 1)
    assert found == {
        "methods": [
            "_exec_schedule",
            "clip_fp32_gradients",
            "eval_batch",
            "load_checkpoint",
            "reset_activation_shape",
            "save_checkpoint",
            "train_batch",
        ],
        "instructions": ["BackwardPass", "RecvGrad", "ReduceGrads", "ReduceTiedGrads"],
        "backward": ["hooks.train_batch", "hooks._exec_schedule", "hooks.instruction"],
        "forward": [
            "hooks.train_batch",
            "hooks._exec_schedule",
            "stage_module.forward",
            "stage_module._run",
        ],
        "evaluation": [
            "hooks.eval_batch",
            "hooks._exec_schedule",
            "stage_module.forward",
            "stage_module._run",
        ],
    }
