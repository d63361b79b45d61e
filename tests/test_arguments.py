"""Arguments of public functions: a wrong one is named, with its value and those that it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pipecodec
from pipecodec import pipelining
from pipecodec.arguments import described

from .simdev import TORCH


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class First(nn.Linear):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"h": super().forward(x)}


class Last(nn.Linear):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return super().forward(h)


X = torch.ones(2, 4)
STAGES = [First(4, 4), Last(4, 4)]
HAND = pipecodec.partition_modules(STAGES)
CUT = pipecodec.partition(Model(), (X,), n_stages=2)
with torch.device("meta"):
    ON_META = pipecodec.partition(Model(), (torch.ones(2, 4, device="cpu"),), n_stages=2)


def cut(**changed: Any) -> Any:
    return pipecodec.partition(
        **{"model": Model(), "args": (X,), "n_stages": 2, **changed}  # type: ignore[arg-type]
    )


def describe(**changed: Any) -> Any:
    return pipecodec.partition_modules(**{"stages": STAGES, **changed})


def report(**changed: Any) -> Any:
    return pipecodec.doctor(x=X, **{"part": HAND, **changed})


def load(**changed: Any) -> Any:
    return pipecodec.load_stage(**{"part": ON_META, "stage": 0, "folder": "nowhere", **changed})


def fill(**changed: Any) -> Any:
    return pipecodec.materialize_stage(**{"part": ON_META, "stage": 0, **changed})


def registered(**changed: Any) -> Any:
    class Registered:
        pass

    given = {"cls": Registered, "flatten": list, "unflatten": list, **changed}
    return pipecodec.register(**given)  # type: ignore[arg-type]


WRONG: list[tuple[Callable[..., Any], dict[str, Any], type[Exception], str]] = [
    (cut, {"model": lambda x: x}, TypeError, "model must be a torch.nn.Module, not a function"),
    (cut, {"model": Model}, TypeError, "model must be a torch.nn.Module, not the class Model"),
    (
        cut,
        {"model": torch.compile(Model(), backend="eager")},
        TypeError,
        "model is wrapped in torch.compile; pass",
    ),
    (cut, {"model": nn.DataParallel(Model())}, TypeError, "model is wrapped in torch.nn.DataPar"),
    (cut, {"args": X}, TypeError, r"args must be a tuple .*, not a Tensor; pass \(value,\)"),
    (cut, {"args": {"x": X}}, TypeError, "args must be .*, not a dict; pass it as kwargs="),
    (cut, {"args": (), "kwargs": [X]}, TypeError, "kwargs must be a dict .*, not a list"),
    (cut, {"args": (), "kwargs": {1: X}}, TypeError, "kwargs must be a dict whose keys .*, not 1"),
    (cut, {"examples": {"x": X}}, TypeError, "examples must be a list of batches, not a dict"),
    (cut, {"examples": [X]}, TypeError, "examples must be .*, but holds a Tensor"),
    (cut, {"n_stages": "2"}, ValueError, "n_stages must be a number of stages, .* not '2'"),
    (cut, {"n_stages": True}, ValueError, "n_stages must be a number of stages, .* not True"),
    (cut, {"split": "layers.1"}, TypeError, r"split must be .*; pass split=\['layers.1'\]"),
    (cut, {"split": [1]}, TypeError, "split must be a list of names, but holds 1"),
    (cut, {"balance": "even"}, ValueError, "balance must be .*, not 'even'"),
    (cut, {"balance": nn.Linear(1, 1)}, ValueError, "balance must be .*, not a Linear"),
    (cut, {"verify": X}, ValueError, "verify must be one of 'values', .*, not a Tensor"),
    (cut, {"recompute": "x"}, ValueError, "recompute must be one of True, False, None, not 'x'"),
    (cut, {"outputs": "loss"}, TypeError, r"outputs must be .*; pass outputs=\['loss'\]"),
    (describe, {"stages": nn.Linear(2, 2)}, TypeError, "stages must be a list .*, not a Linear"),
    (describe, {"stages": [First]}, TypeError, r"stages\[0\] must be .*, not the class First"),
    (describe, {"inputs": "xy"}, TypeError, r"inputs must be .*; pass inputs=\['xy'\]"),
    (describe, {"inputs": {"x": 1}}, TypeError, "inputs must be a list of names, not a dict"),
    (describe, {"stages": [torch.relu]}, TypeError, r"stages\[0\] must be .*, not a builtin"),
    (describe, {"inputs": ["x", 3]}, TypeError, "inputs must be a list of names, but holds 3"),
    (describe, {"outputs": "h"}, TypeError, "outputs must be a list with an entry .*, not 'h'"),
    (describe, {"outputs": [3, None]}, TypeError, r"outputs\[0\] must be .*, not 3"),
    (describe, {"model": "m"}, TypeError, "model must be the torch.nn.Module .*, not 'm'"),
    (describe, {"ties": [("weight", 0)]}, TypeError, "ties must be a list of weights, each .*"),
    (describe, {"ties": [[("weight", "0")]]}, TypeError, r"ties must .* holds \('weight', '0'\)"),
    (pipecodec.run_local, {"part": Model()}, TypeError, "part must be a Partition, .* a Model"),
    (report, {"part": Model()}, TypeError, "part must be a Partition, .*, not a Model"),
    (report, {"more": {"x": X}}, TypeError, "more must be a list of micro-batches, not a dict"),
    (report, {"more": [X]}, TypeError, "more must be .*, not a Tensor in it"),
    (report, {"micro_batches": 2.5}, ValueError, "micro_batches must be .*, not 2.5"),
    (load, {"part": Model()}, TypeError, "part must be a Partition, .*, not a Model"),
    (load, {"stage": "0"}, ValueError, "stage must be the number of a stage, not '0'"),
    (load, {"folder": 3}, TypeError, "folder must be the path of a folder, not 3"),
    (load, {"device": "gpu"}, ValueError, "device 'gpu' cannot be used: Expected one of cpu"),
    (load, {"device": 2.5}, TypeError, "device must be a torch.device, .*, not 2.5"),
    (load, {"dtype": "bfloat16"}, TypeError, "dtype must be a torch.dtype, or None, not 'bf"),
    (load, {"dtype": torch.int8}, ValueError, "dtype must be one of floating point, not torch.i"),
    (load, {"strict": "no"}, ValueError, "strict must be True or False, not 'no'"),
    (fill, {"seed": "a"}, ValueError, "seed must be an int, or None, not 'a'"),
    (pipecodec.Codec, {"name": None}, TypeError, "name must be a text, .*, not None"),
    (pipecodec.Codec, {"differentiable": [1]}, ValueError, "differentiable must be .*, not a li"),
    (pipecodec.Codec, {"differentiable": b"x"}, ValueError, "differentiable must .*, not b'x'"),
    (registered, {"cls": 3}, TypeError, "register: cls must be a class, not 3"),
    (registered, {"flatten": None}, TypeError, "register: flatten must be a function, not None"),
    (registered, {"name": 3}, TypeError, "name must be a text, or None, not 3"),
    (CUT.state_dict_to_model, {"stage_state_dicts": {}}, TypeError, "stage_state_dicts must be"),
    (
        CUT.state_dict_to_model,
        {"stage_state_dicts": [3, 4]},
        TypeError,
        r"dicts\[0\] must .*, not 3",
    ),
    (CUT.state_dict_from_model, {"state_dict": None}, TypeError, "state_dict must be .*, not None"),
    (pipelining.loss, {"loss_fn": 3}, TypeError, "loss_fn must be a function, or None, not 3"),
    (pipelining.per_sample, {"values": "ab"}, TypeError, "values must be a list .*, not 'ab'"),
    (pipelining.reset, {"stages": Model()}, ValueError, "these are no stages .*, but a Model;"),
    (
        pipelining.clip_grad_norm_,
        {"stages": [], "max_norm": "x"},
        TypeError,
        "max_norm must be a number, not 'x'",
    ),
    (
        pipelining.build_stage,
        {"part": Model(), "stage_index": 0},
        TypeError,
        "part must be a Partition, .*, not a Model",
    ),
    (
        pipelining.build_stage,
        {"part": HAND, "stage_index": "0"},
        ValueError,
        "stage_index must be the number of a stage, not '0'",
    ),
    (
        pipelining.build_stage,
        {"part": HAND, "stage_index": 0, "stall_timeout": -1},
        ValueError,
        "stall_timeout must be a positive number of seconds, or None, not -1",
    ),
    (
        pipelining.build_stage,
        {"part": HAND, "stage_index": 0, "share_errors": "no"},
        ValueError,
        "share_errors must be True or False, not 'no'",
    ),
]


def ids(value: Any) -> str:
    return "" if isinstance(value, type) else getattr(value, "__name__", "")


@pytest.mark.parametrize(("function", "given", "kind", "message"), WRONG, ids=ids)
def test_a_wrong_argument_is_named(
    function: Callable[..., Any], given: dict[str, Any], kind: type[Exception], message: str
) -> None:
    if function is pipelining.build_stage and TORCH < (2, 13):
        kind, message = RuntimeError, "pipecodec.pipelining needs torch 2.13 or newer"
    with pytest.raises(kind, match=message):
        function(**given)


def test_a_missing_state_dict_is_an_error_without_strict_too() -> None:
    states = [stage.state_dict() for stage in CUT.stages]
    with pytest.raises(ValueError, match="there are 1 state dicts for 2 stages"):
        CUT.state_dict_to_model(states[:1], strict=False)


def test_every_sequence_of_names_and_modules_is_taken(tmp_path: Path) -> None:
    assert pipecodec.partition_modules(nn.ModuleList(STAGES)).stages == STAGES
    assert pipecodec.partition_modules(nn.Sequential(*STAGES), inputs=("x",)).input_names == ["x"]
    part = pipecodec.partition(Model(), [X], split=("layers.1",), examples=((X[:1],),))
    assert len(part.stages) == 2
    with pytest.raises(ValueError, match="has no weights"):
        pipecodec.load_stage(ON_META, 0, tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("x" * 99, "'" + "x" * 59 + "…"),
        (torch.float32, "a dtype"),
        (nn.Embedding(1, 1), "an Embedding"),
        (int, "the class int"),
    ],
)
def test_a_value_is_described_shortly(value: object, text: str) -> None:
    assert described(value) == text
