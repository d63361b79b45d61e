"""From stages to DeepSpeed's PipelineModule: tags, ties, warnings and refusals."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pipecodec import partition_modules
from pipecodec.deepspeed import (
    DeepSpeedPipeStageWrapper,
    deepspeed_pipe_engine,
    pipeline_module,
)
from pipecodec.demo.launch import Rank
from pipecodec.registry import get_dialect

from .engines import join
from .harness import values

GIVEN = {"config": {}, "topology": None, "loss_fn": None}
TIES = {"shared": {("head.weight", 1), ("embed.weight", 0)}}


@pytest.mark.parametrize("missing", ["config", "topology", "loss_fn"])
def test_names_the_argument_that_is_missing(missing: str) -> None:
    given = {name: value for name, value in GIVEN.items() if name != missing}
    with pytest.raises(ValueError, match=f"deepspeed_pipe_engine needs {missing}=: "):
        deepspeed_pipe_engine(SimpleNamespace(tie_weights={}), [], **given)


def test_refuses_settings_that_destroy_frames() -> None:
    given = {**GIVEN, "config": {"fp16": {"auto_cast": True}}}
    with pytest.raises(ValueError, match=r"fp16\.auto_cast"):
        deepspeed_pipe_engine(SimpleNamespace(tie_weights={}), [], **given)


def test_is_registered() -> None:
    assert get_dialect("deepspeed", "pipeline_engine") is deepspeed_pipe_engine


def two_stages() -> list[nn.Module]:
    liveness = {0: ["x"], 1: ["hidden"]}
    arguments = {-1: ["x"], 0: ["x"], 1: ["hidden"]}
    modules = [
        nn.ModuleDict({"embed": nn.Linear(2, 2)}),
        nn.ModuleDict({"head": nn.Linear(2, 2)}),
    ]
    return [
        DeepSpeedPipeStageWrapper(module, k, f"submod_{k}", 2, liveness, arguments)
        for k, module in enumerate(modules)
    ]


class Messages(logging.Handler):
    """Collects pipecodec's log messages in a rank."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        logging.getLogger("pipecodec").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def set_up(rank: Rank, tie_weights: dict[str, Any], kind: str) -> dict[str, Any]:
    """Set up two stages, on a DeepSpeed of the ``kind`` "stock", "fork" or "misnamed"."""
    import deepspeed
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    join()
    registered: list[Any] = []
    if kind == "fork":

        class PipelineModule(deepspeed.pipe.PipelineModule):
            def register_tied_weights(self, tied: Any) -> None:
                registered.append(tied)

        deepspeed.pipe.PipelineModule = PipelineModule
        deepspeed.pipe.TiedWeight = lambda *arguments: arguments
    elif kind == "misnamed":
        deepspeed.pipe.PipelineModule = type("GPT2ModelPipe", (deepspeed.pipe.PipelineModule,), {})
    messages = Messages()
    stages = two_stages()
    own = stages[rank.rank].mod.get_submodule(["embed", "head"][rank.rank])
    own.weight.orig_shape = (4, 2)
    model = deepspeed_pipe_engine(
        SimpleNamespace(tie_weights=tie_weights),
        stages,
        config={"train_batch_size": 1},
        topology=PipeDataParallelTopology(num_pp=2, num_dp=1),
        loss_fn=torch.nn.functional.mse_loss,
    )
    tagged = [n for n, p in model.named_parameters() if getattr(p, "tensor_model_parallel", False)]
    return {
        "stages": [stage.stage_id for stage in model.forward_funcs],
        "tagged": tagged,
        "loss_fn": model.loss_fn is torch.nn.functional.mse_loss,
        "messages": messages.seen,
        "weight": own.weight.tolist(),
        "replicated": own.weight.ds_pipe_replicated,
        "state": list(model.state_dict()),
        "ties": [(key, ranks, name, module is own) for key, ranks, name, module in registered],
    }


def test_each_rank_holds_its_stage_and_tags_sharded_parameters() -> None:
    for rank, got in enumerate(values(set_up, 2, {}, "stock")):
        assert got["stages"] == [rank]
        assert got["tagged"] == [f"{rank}.mod.{['embed', 'head'][rank]}.weight"]
        assert got["loss_fn"] is True
        if rank == 0:
            assert got["messages"] == ["tagged 1 sharded parameters as tensor_model_parallel"]
        else:
            assert got["messages"] == []


def test_stock_deepspeed_gets_what_it_needs_to_tie() -> None:
    first, second = values(set_up, 2, TIES, "stock")
    assert "tying embed.weight (stage 0), head.weight (stage 1)" in first["messages"]
    assert first["weight"] == second["weight"]
    assert (first["replicated"], second["replicated"]) == (False, True)
    for rank, got in enumerate((first, second)):
        names = ["weight", "bias"]
        assert got["state"] == [f"{rank}.mod.{['embed', 'head'][rank]}.{name}" for name in names]


def on_one_rank(rank: Rank) -> dict[str, Any]:
    """Two tied stages in one process."""
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    join()
    stages = two_stages()
    model = deepspeed_pipe_engine(
        SimpleNamespace(tie_weights=TIES),
        stages,
        config={"train_batch_size": 1},
        topology=PipeDataParallelTopology(num_pp=1, num_dp=1),
        loss_fn=torch.nn.functional.mse_loss,
    )
    embed, head = (stages[k].mod.get_submodule(name) for k, name in enumerate(("embed", "head")))
    return {
        "one": embed.weight is head.weight,
        "state": [name for name, _ in model.named_parameters()],
        "groups": len(model.tied_comms),
    }


def test_copies_on_one_rank_become_one_parameter() -> None:
    (got,) = values(on_one_rank, 1)
    assert got["one"] and got["groups"] == 0
    assert got["state"] == ["0.mod.embed.weight", "0.mod.embed.bias", "1.mod.head.bias"]


def test_the_forks_ties_are_used() -> None:
    for got in values(set_up, 2, TIES, "fork"):
        assert got["ties"] == [("embed_weight", [[0, 1]], "weight", True)]


def refused(rank: Rank, kind: str) -> str:
    with pytest.raises(ValueError) as caught:
        set_up(rank, {}, kind)
    return str(caught.value)


def test_refuses_a_module_class_that_the_engine_takes_for_another() -> None:
    for message in values(refused, 2, "misnamed"):
        assert "class is named GPT2ModelPipe" in message


def test_ranks_must_be_able_to_compare_their_settings() -> None:
    part = partition_modules([nn.Identity(), nn.Identity()], outputs=["input", None])
    topology = SimpleNamespace(get_dim=lambda axis: 2)
    with pytest.raises(ValueError, match=r"call deepspeed\.init_distributed\(\) first"):
        pipeline_module(part, topology=topology, loss_fn=None, config={})
