"""The same stage modules on DualPipeV, where each rank holds two stages and the way is a V."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

import pipecodec
from pipecodec.demo.launch import Rank

from .harness import values
from .models import Decoder
from .training import Case, Result, loss_fn, micro_batches, train_whole

CASE = Case("Decoder", 4, accumulate=4)
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": CASE.accumulate,
    "gradient_clipping": 0.0,
    "steps_per_print": None,
}


def set_up(model: torch.nn.Module, **options: Any) -> Any:
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    stages, outputs = model.stages()
    return pipecodec.deepspeed.pipeline_module(
        pipecodec.partition_modules(stages, ["x", "segment"], outputs),
        topology=PipeDataParallelTopology(num_pp=len(stages) // 2, num_dp=1),
        loss_fn=loss_fn,
        config=CONFIG,
        schedule="dualpipev",
        **options,
    )


def train(rank: Rank) -> tuple[Result, list[list[int]], Counter[tuple[str, int]]]:
    """Return results, the stages of both phases, and the messages of a step by kind and peer."""
    import deepspeed

    model = CASE.build()
    names = {parameter: name for name, parameter in model.named_parameters()}
    module = set_up(model)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=CONFIG)[0]
    assert type(engine).__name__ == "DualPipeVEngine"
    held = [[wrapper.stage_id for wrapper in phase] for phase in module.phase_funcs]
    queue, messages = engine._queue_p2p, Counter()

    def count(op: Any, tensors: Any, stage: int) -> None:
        messages["sent" if op is deepspeed.comm.isend else "received", stage] += len(tensors)
        queue(op, tensors, stage)

    engine._queue_p2p = count
    result = Result()
    for step in range(CASE.steps):
        messages.clear()
        result.losses.append(engine.train_batch(micro_batches(CASE, step)).item())
    here = {names[p]: p for p in module.parameters() if p in names}
    result.weights = {name: p.flatten().tolist() for name, p in here.items()}
    return result, held, messages


def test_trains_as_in_one_process() -> None:
    (whole,) = values(train_whole, 1, CASE)
    assert len(set(whole.losses)) == CASE.steps
    (first, stages, messages), (second, other_stages, other_messages) = values(train, 2)
    assert (stages, other_stages) == ([[0], [3]], [[1], [2]])
    for result in (first, second):
        assert result.losses == whole.losses
    assert {**first.weights, **second.weights} == whole.weights
    # Between stages 0 and 1, and between 2 and 3: two tensors forward, one back. The boundary
    # between 1 and 2 is inside rank 1, where nothing is sent.
    number = 3 * CASE.accumulate
    assert messages == {("sent", 1): number, ("received", 1): number}
    assert other_messages == {("sent", 0): number, ("received", 0): number}


def refused(rank: Rank) -> str:
    with pytest.raises(ValueError) as caught:
        set_up(Decoder(4), dynamic_shape=True)
    return str(caught.value)


def test_dynamic_shapes_are_refused_at_set_up() -> None:
    for message in values(refused, 2):
        assert message == (
            "DualPipeV exchanges the shapes of what crosses a boundary once, so dynamic_shape=True "
            "cannot hold with schedule='dualpipev'; pad to one shape, or use schedule='1f1b'"
        )
