"""The training of models with tied weights, in a pipeline and in one process."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipecodec.deepspeed
from pipecodec.deepspeed import setup
from pipecodec.deepspeed.clipping import count_every_stage
from pipecodec.demo.launch import Rank

from .tied_cases import Case, build, micro_batches

__all__ = ["Trained", "engine_of", "pipeline_cases", "whole_cases"]


@dataclass
class Trained:
    """``weights`` holds those of one rank as NumPy arrays, and each step's norm of gradients."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)


def optimizer_of(case: Case, parameters: Any) -> torch.optim.Optimizer:
    if case.model == "llama":
        return torch.optim.AdamW(parameters, lr=1e-3)
    # GPT-2 has biases whose gradients are nothing but rounding; Adam makes whole steps of them.
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def engine_of(case: Case, part: pipecodec.Partition, loss: Callable[[Any, Any], Tensor]) -> Any:
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    return pipecodec.deepspeed.initialize(
        part,
        topology=PipeModelDataParallelTopology(case.pipes, case.tensor, case.replicas),
        loss_fn=loss,
        optimizer=lambda parameters: optimizer_of(case, parameters),
        schedule=case.schedule,
        check_ties_every=case.check,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": case.accumulate,
            "gradient_clipping": case.clip,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": case.bf16},
            "zero_optimization": {"stage": case.zero},
        },
    )[0]


@contextlib.contextmanager
def noting_norms(trained: Trained) -> Iterator[list[float]]:
    """Keep the norm that the engine throws away in fp32 without ZeRO."""
    from deepspeed.runtime import engine

    clip = engine.clip_grad_norm_

    def noting(*args: Any, **kwargs: Any) -> Any:
        norm = clip(*args, **kwargs)
        trained.norms.append(float(norm))
        return norm

    engine.clip_grad_norm_ = noting
    try:
        yield trained.norms
    finally:
        engine.clip_grad_norm_ = clip


def pipeline_cases(rank: Rank, cases: dict[str, Case]) -> dict[str, Trained]:
    """Train every case on this rank; says each one's name before it begins."""
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    results = {}
    for name, case in cases.items():
        rank.say(name)
        results[name] = _pipeline(rank, case)
    return results


def _pipeline(rank: Rank, case: Case) -> Trained:
    from deepspeed.pipe import PipelineModule

    part, names, loss = partition(rank, case)
    for stage, path in {(k, path) for tie in part.tie_weights.values() for path, k in tie}:
        with torch.no_grad():  # only the first ranks have the value that all are to begin with
            part.stages[stage].get_parameter(path).add_(rank.rank * case.pipes // rank.world)
    with pytest.MonkeyPatch.context() as patch:
        if case.without == "broadcast":
            patch.setattr(PipelineModule, "_synchronize_tied_weights", lambda self: None)
        if case.without == "order":
            patch.setattr(setup, "sum_tied_gradients", lambda engine, presence: None)
        engine = engine_of(case, part, loss)
    if case.without == "reduction":
        engine.module.get_tied_weights_and_groups = list
    if case.without == "norm":
        for parameter in engine.module.parameters():
            parameter.ds_pipe_replicated = False
        count_every_stage(engine.module, 0)
    replica = engine.grid.get_data_parallel_rank()
    trained = Trained()
    for step in range(case.steps):
        batches = micro_batches(case, step, replica)
        with noting_norms(trained) as noted:
            trained.losses.append(engine.train_batch(batches).item())
        if case.clip and len(noted) <= step:
            noted.append(float(engine.get_global_grad_norm()))
    for stage in engine.module.modules():
        if isinstance(stage, pipecodec.DeepSpeedPipeStageWrapper):
            for path, parameter in stage.mod.named_parameters():
                name = names[path, stage.stage_id]
                trained.weights[name] = parameter.detach().float().numpy().copy()
    return trained


def partition(rank: Rank, case: Case) -> tuple[pipecodec.Partition, dict[Any, str], Any]:
    """Return the stages, the model's name for what is in each place of them, and the loss."""
    model, stages, loss = build(case)
    part = pipecodec.partition_modules(stages, case.inputs, model=model)
    assert part.model_state is not None
    names: dict[Any, str] = {}
    for key, places in part.model_state.places.items():
        for place in places:
            names.setdefault(place, key)
    if case.made.startswith("copied"):
        ties = list(part.tie_weights.values())
        by_name = {"model": model} if case.made == "copied by name" else {"ties": ties}
        stages = [copy.deepcopy(stage) for stage in stages]
        part = pipecodec.partition_modules(stages, case.inputs, **by_name)
    elif case.made == "on meta":
        state = part.state_dict_from_model(model.state_dict())
        with torch.device("meta"):
            model, stages, _ = build(case)
        part = pipecodec.partition_modules(stages, case.inputs, model=model)
        own = rank.rank * case.pipes // rank.world
        stages[own].to_empty(device="cpu").load_state_dict(state[own])
    return part, names, loss


def whole_cases(rank: Rank, cases: list[Case]) -> list[Trained]:
    return [_whole(case) for case in cases]


def _whole(case: Case) -> Trained:
    """Train in one process; with bf16, on fp32 copies of the weights as DeepSpeed does."""
    model, _, loss = build(case)
    if case.bf16:
        model.bfloat16()
    weights = [p for p in model.parameters() if p.requires_grad]
    masters = [p.detach().float().requires_grad_() for p in weights] if case.bf16 else weights
    optimizer = optimizer_of(case, masters)
    trained = Trained()
    for step in range(case.steps):
        losses = []
        for replica in range(case.replicas):
            for batch in micro_batches(case, step, replica):
                labels = batch.pop("labels")
                output = model(**batch)
                losses.append(loss(getattr(output, "logits", output), labels))
                (losses[-1] / (case.accumulate * case.replicas)).backward()
        if case.bf16:
            for master, weight in zip(masters, weights, strict=True):
                master.grad = None if weight.grad is None else weight.grad.float()
        if case.clip:
            trained.norms.append(float(nn.utils.clip_grad_norm_(masters, case.clip)))
        optimizer.step()
        model.zero_grad()
        if case.bf16:
            with torch.no_grad():
                for master, weight in zip(masters, weights, strict=True):
                    weight.copy_(master)
        trained.losses.append((sum(each.detach() for each in losses) / len(losses)).item())
    trained.weights = {n: p.detach().float().numpy() for n, p in model.named_parameters()}
    return trained
