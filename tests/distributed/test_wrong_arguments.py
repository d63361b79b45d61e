"""Wrong arguments on the engine are named on every rank, and the engine trains on after them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import pipecodec.deepspeed as engines
from pipecodec import partition_modules
from pipecodec.demo.launch import Rank

from .engines import loss_fn, sgd
from .harness import values

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 0.0,
}
FROM_PARSER = argparse.Namespace(deepspeed_config="ds.json")
SET_UP: list[tuple[dict[str, Any], str]] = [
    ({"part": 3}, "TypeError: part must be a Partition, as pipecodec.partition and"),
    ({"config": None}, "TypeError: config must be DeepSpeed's configuration, a dict or the path"),
    ({"config": 3}, "TypeError: config must be DeepSpeed's configuration, a dict or the path"),
    ({"topology": "x"}, "TypeError: topology must be a deepspeed.pipe.ProcessTopology with an"),
    ({"loss_fn": 3}, "TypeError: loss_fn must be a function, or None, not 3"),
    ({"batch_fn": "x"}, "TypeError: batch_fn must be a function, or None, not 'x'"),
    ({"schedule": None}, "ValueError: schedule must be one of '1f1b', 'dualpipev', not None"),
    ({"correct_clipping": "no"}, "ValueError: correct_clipping must be True or False, not 'no'"),
    ({"share_errors": "no"}, "ValueError: share_errors must be True or False, not 'no'"),
    ({"stall_timeout": "9"}, "ValueError: stall_timeout must be a positive number of seconds, or"),
    ({"optimizer": "adam"}, "TypeError: optimizer must be an optimizer, or a function of the para"),
    ({"optimizer": lambda _: 3}, "TypeError: optimizer must be an optimizer, or a function of"),
    (
        {"lr_scheduler": 3},
        "TypeError: lr_scheduler must be a scheduler with a method step, or a fun",
    ),
    (
        {"lr_scheduler": 0},
        "TypeError: lr_scheduler must be a scheduler with a method step, or a fun",
    ),
    ({"lr_scheduler": lambda _: 3}, "TypeError: lr_scheduler must be a scheduler with a method st"),
    ({"training_data": 3}, "TypeError: training_data must be a dataset with a length and numbered"),
    (
        {"training_data": {}},
        "TypeError: training_data must be a dataset with a length and numbered",
    ),
    ({"collate_fn": "x"}, "TypeError: collate_fn must be a function, or None, not 'x'"),
    ({"args": 3}, "TypeError: args must be the arguments of a parser, not 3"),
    ({"args": FROM_PARSER}, "ValueError: args names a deepspeed_config; pass it as config=, and"),
    ({"distributed_port": "1"}, "ValueError: distributed_port must be a number of a port, not '1'"),
    ({"dist_init_required": "no"}, "ValueError: dist_init_required must be one of True, False,"),
    ({"mesh_param": 3}, "TypeError: mesh_param must be a pair of sizes, not 3"),
    ({"mpu": object()}, "ValueError: mpu must be None, not an object: the partition's stages and"),
    (
        {"config_params": {}},
        "ValueError: config_params must be None, not a dict: it is an old name",
    ),
    (
        {"check_ties_every": True},
        "ValueError: check_ties_every must be a number of steps, or 0 for",
    ),
    ({"model": None}, "TypeError: initialize has no argument 'model'; it takes those of its own"),
    ({"model_parameters": [3]}, "TypeError: model_parameters must be parameters, (name, parameter"),
]


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))


def told(call: Callable[[], Any]) -> str:
    try:
        return f"nothing: {call()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def try_all(rank: Rank, folder: str) -> tuple[list[str], dict[str, str], float]:
    model = Wide()
    part = partition_modules(list(model.layers), outputs=["input", None], model=model)
    right = {"part": part, "config": CONFIG, "loss_fn": loss_fn, "optimizer": sgd}

    def set_up(**changed: Any) -> Any:
        given = {**right, **changed}
        return engines.initialize(given.pop("part"), **given)

    in_set_up = [told(lambda given=given: set_up(**given)) for given, _ in SET_UP]  # type: ignore[misc]
    engine, *_ = set_up()
    batch = (torch.ones(2, 2), torch.ones(2, 2))
    used = {
        "a list of batches": told(lambda: engine.train_batch([batch, batch])),
        "a batch": told(lambda: engine.eval_batch(batch)),
        "a model as the engine": told(lambda: engines.model_state_dict(model, part)),
        "a model as the partition": told(lambda: engines.model_state_dict(engine, model)),  # type: ignore[arg-type]
        "masters": told(lambda: engines.model_state_dict(engine, part, masters="no")),  # type: ignore[arg-type]
        "a list as the state": told(lambda: engines.load_model_state_dict(engine, part, [1])),  # type: ignore[arg-type]
        "a number as the engine": told(lambda: engines.load_checkpoint(3, part, folder)),
        "a number as the folder": told(lambda: engines.load_checkpoint(engine, part, 3)),  # type: ignore[arg-type]
        "no checkpoint": told(lambda: engines.checkpoint_state_dict(part, folder)),
    }
    return in_set_up, used, float(engine.train_batch(iter([batch, batch])))


USED = {
    "a list of batches": "TypeError: data_iter must be an iterator of micro-batches, such as",
    "a batch": "TypeError: data_iter must be an iterator of micro-batches, such as",
    "a model as the engine": "TypeError: engine must be an engine of stages, as pipecodec",
    "a model as the partition": "TypeError: part must be a Partition, as pipecodec.partition",
    "masters": "ValueError: masters must be True or False, not 'no'",
    "a list as the state": "ValueError: TypeError: state_dict must be a state dict, not a list",
    "a number as the engine": "TypeError: engine must be an engine of stages, as pipecodec",
    "a number as the folder": "TypeError: folder must be the save_dir of engine.save_checkpoint",
    "no checkpoint": "has no file latest, which engine.save_checkpoint writes; pass its",
}


def test_wrong_arguments_are_named_on_every_rank(tmp_path: Any) -> None:
    for in_set_up, used, loss in values(try_all, 2, str(tmp_path), timeout=100):
        for found, (given, message) in zip(in_set_up, SET_UP, strict=True):
            assert found.startswith(message), given
        for case, message in USED.items():
            assert message in used[case], case
        assert loss > 0
