"""Options of a boundary are checked once, when they are made, and cannot change after that."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from pipecodec import Codec, DeepSpeedPipeStageWrapper
from pipecodec.options import BoundaryOptions

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"capacity": 300}, "capacity must be a positive multiple of 256 bytes, not 300"),
    ({"capacity": "256"}, "capacity must be a positive multiple of 256 bytes, not '256'"),
    ({"differentiable": "no"}, "differentiable must be one of 'auto', 'by-dtype', not 'no'"),
    ({"differentiable": 3}, "differentiable must be 'auto', 'by-dtype' or a set of paths, not 3"),
    ({"dynamic_shape": 1}, "dynamic_shape must be True or False, not 1"),
    ({"read": "never"}, "read must be one of 'auto', 'always', 'verified', 'ahead', not 'never'"),
    ({"values": None}, "values must be one of 'dynamic', 'static', not None"),
    ({"dynamic_shape": True, "read": "verified"}, "with dynamic_shape=True every frame is read"),
]


def stage(**options: Any) -> DeepSpeedPipeStageWrapper:
    names: dict[int, Any] = {-1: ["x"], 0: ["x"], 1: ["h"]}
    return DeepSpeedPipeStageWrapper(
        nn.Linear(2, 2), 0, "submod_0", 2, [["x"], ["h"]], names, **options
    )


@pytest.mark.parametrize("make", [BoundaryOptions, Codec, stage])
@pytest.mark.parametrize(("given", "message"), WRONG, ids=lambda each: str(each)[:40])
def test_wrong_options_are_refused_alike(make: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**given)


def test_options_stay_what_was_checked() -> None:
    options = BoundaryOptions(capacity=512)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.capacity = 300  # type: ignore[misc]
    assert options == BoundaryOptions(capacity=512) != BoundaryOptions()


def test_a_stage_keeps_the_options_that_it_was_given() -> None:
    options = BoundaryOptions(capacity=512, dynamic_shape=True)
    assert stage(options=options).options is options
    assert stage(capacity=512, dynamic_shape=True).options == options


@pytest.mark.parametrize(
    ("given", "cpu", "cuda"),
    [
        ({}, False, True),
        ({"read": "verified"}, True, True),
        ({"read": "always"}, False, False),
        ({"dynamic_shape": True}, False, False),
    ],
)
def test_which_frames_may_go_unread(given: dict[str, Any], cpu: bool, cuda: bool) -> None:
    options = BoundaryOptions(**given)
    assert options.may_not_read(torch.device("cpu")) is cpu
    assert options.may_not_read(torch.device("cuda")) is cuda
