"""The contenders on each engine: functions that make a rank's ``step(batch) -> loss or None``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pipecodec
from benchmarks.training.by_hand import TensorStage, TupleStage, named_stages
from benchmarks.training.cases import Case, optimizer
from benchmarks.training.origin_stages import OriginCut
from pipecodec.demo.by_hand import causal_lm_loss
from pipecodec.demo.data import MicroBatch

__all__ = ["BY_HAND", "CONTENDERS", "ORIGIN", "PIPECODEC", "SAME_STAGES", "Step"]

BY_HAND, PIPECODEC, ORIGIN = "by hand", "pipecodec", "origin"
SAME_STAGES = "pipecodec, stages by hand"

Step = Callable[[list[MicroBatch]], float | None]
"""Trains on a step's micro-batches; returns the mean of their losses, on the last rank at least."""


def _loss_fn(output: Any, labels: Tensor) -> Tensor:
    return causal_lm_loss(output if isinstance(output, Tensor) else output.logits, labels)


def _inputs(batch: MicroBatch) -> dict[str, Any]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def _cut(case: Case, example: MicroBatch) -> pipecodec.Partition:
    return pipecodec.partition(case.build(), kwargs=_inputs(example), split=case.split)


def _named(case: Case, example: MicroBatch) -> pipecodec.Partition:
    return pipecodec.partition_modules(named_stages(case, case.build()))


def _config(case: Case) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": case.size.batch,
        "gradient_accumulation_steps": case.size.micro_batches,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
    }


def _topology(case: Case) -> Any:
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    return PipeDataParallelTopology(num_pp=case.stages, num_dp=1)


def _deepspeed_pipecodec(case: Case, part: pipecodec.Partition) -> Step:
    engine = pipecodec.deepspeed.initialize(
        part,
        topology=_topology(case),
        loss_fn=_loss_fn,
        config=_config(case),
        optimizer=optimizer,
    )[0]
    return lambda batch: engine.train_batch((_inputs(b), b.labels) for b in batch).item()


def deepspeed_pipecodec(case: Case, rank: int, example: MicroBatch) -> Step:
    return _deepspeed_pipecodec(case, _cut(case, example))


def deepspeed_same_stages(case: Case, rank: int, example: MicroBatch) -> Step:
    return _deepspeed_pipecodec(case, _named(case, example))


def _stock_deepspeed(case: Case, stages: list[Any]) -> Step:
    import deepspeed
    from deepspeed import pipe

    module = pipe.PipelineModule(
        stages, topology=_topology(case), partition_method="uniform", loss_fn=_loss_fn
    )
    engine = deepspeed.initialize(
        model=module,
        config=_config(case),
        optimizer=optimizer,
        model_parameters=[*module.parameters()],
    )[0]
    return lambda batch: engine.train_batch(
        ((b.input_ids, b.attention_mask), b.labels) for b in batch
    ).item()


def deepspeed_by_hand(case: Case, rank: int, example: MicroBatch) -> Step:
    model = case.build()
    return _stock_deepspeed(case, [TupleStage(case, model, k) for k in range(case.stages)])


def deepspeed_origin(case: Case, rank: int, example: MicroBatch) -> Step:
    part = _cut(case, example)
    return _stock_deepspeed(case, [OriginCut(part, k) for k in range(case.stages)])


def _torch_pipecodec(case: Case, part: pipecodec.Partition, rank: int) -> Step:
    stage = pipecodec.pipelining.build_stage(part, rank)

    def given(inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), inputs if rank == 0 else {}

    return _torch_step(case, stage, pipecodec.pipelining.loss(_loss_fn), given)


def torch_pipecodec(case: Case, rank: int, example: MicroBatch) -> Step:
    return _torch_pipecodec(case, _cut(case, example), rank)


def torch_same_stages(case: Case, rank: int, example: MicroBatch) -> Step:
    return _torch_pipecodec(case, _named(case, example), rank)


def _stock_torch(case: Case, module: Any, rank: int, given: Callable[..., Any]) -> Step:
    from torch.distributed.pipelining import PipelineStage

    stage = PipelineStage(module, rank, case.stages, torch.device("cpu"))
    return _torch_step(case, stage, _loss_fn, given)


def torch_by_hand(case: Case, rank: int, example: MicroBatch) -> Step:
    def given(inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = (inputs["input_ids"],) if rank == 0 else ()
        return ids, {"padding": inputs["attention_mask"]}

    return _stock_torch(case, TensorStage(case, case.build(), rank), rank, given)


def torch_origin(case: Case, rank: int, example: MicroBatch) -> Step:
    def given(inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(inputs.values()) if rank == 0 else (), {}

    return _stock_torch(case, OriginCut(_cut(case, example), rank), rank, given)


def _torch_step(case: Case, stage: Any, loss_fn: Any, given: Callable[..., Any]) -> Step:
    from torch.distributed.pipelining import Schedule1F1B

    schedule = Schedule1F1B(stage, case.size.micro_batches, loss_fn=loss_fn)
    adam = optimizer(stage.submod.parameters())
    ours = loss_fn is not _loss_fn

    def step(batch: list[MicroBatch]) -> float | None:
        whole = MicroBatch(*(torch.cat(parts) for parts in zip(*batch, strict=True)))
        args, kwargs = given(_inputs(whole))
        target = whole.labels if stage.is_last else None
        losses: list[Tensor] = []
        schedule.step(*args, target=target, losses=losses, return_outputs=False, **kwargs)
        if ours:
            pipecodec.pipelining.sum_tied_gradients(stage)
        adam.step()
        adam.zero_grad()
        return (sum(losses, torch.zeros(())) / len(losses)).item() if losses else None

    return step


CONTENDERS: dict[str, dict[str, Callable[[Case, int, MicroBatch], Step]]] = {
    "deepspeed": {
        BY_HAND: deepspeed_by_hand,
        PIPECODEC: deepspeed_pipecodec,
        SAME_STAGES: deepspeed_same_stages,
        ORIGIN: deepspeed_origin,
    },
    "torch": {
        BY_HAND: torch_by_hand,
        PIPECODEC: torch_pipecodec,
        SAME_STAGES: torch_same_stages,
        ORIGIN: torch_origin,
    },
}
