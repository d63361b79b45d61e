"""describe and leaves: frames as text for people."""

from __future__ import annotations

import pytest
import torch

from pipecodec import Codec, FrameError, describe, pack
from pipecodec.describe import leaves
from tests.corpus import Colour, Output, structures

VALUE = {
    "h": torch.ones(2, 3, requires_grad=True),
    "n": [7, 0.5, None, "x", Colour.RED],
    "o": Output(torch.tensor(1)),
}


def test_description_of_a_value() -> None:
    assert describe(VALUE).splitlines()[1:] == [
        "outputs: dict (3)",
        "  ['h']: tensor float32 [2, 3], 24 bytes, slot requires grad",
        "  ['n']: list (5)",
        "    [0]: int 7",
        "    [1]: float 0.5",
        "    [2]: None",
        "    [3]: str 'x'",
        "    [4]: enum tests.corpus:Colour.RED",
        "  ['o']: dataclass tests.corpus:Output (3)",
        "    .hidden: tensor int64 [], 8 bytes, slot",
        "    .mask: None",
        "    .size: int 3",
    ]


def test_frames_and_values_are_described_alike() -> None:
    packed = pack(VALUE)
    assert describe(packed) == describe(packed[-1]) == describe(VALUE)


@pytest.mark.parametrize("name", structures())
def test_everything_can_be_described(name: str) -> None:
    lines = describe(structures()[name]).splitlines()
    assert lines[0].startswith("frame of ")
    assert lines[1].startswith("outputs: ")


def test_a_tensor_of_bytes_is_taken_for_a_frame() -> None:
    with pytest.raises(FrameError, match="not a pipecodec frame"):
        describe(torch.zeros(256, dtype=torch.uint8))


def test_leaves_say_how_they_travel() -> None:
    codec = Codec(transport="tunnel")
    big = torch.zeros(5000, dtype=torch.bool)
    found = leaves(codec.pack({"h": VALUE["h"], "ids": torch.arange(3), "big": big}))
    assert [(leaf.path, leaf.route, leaf.nbytes) for leaf in found] == [
        ("outputs['h']", "tunnel", 24),
        ("outputs['ids']", "frame", 24),
        ("outputs['big']", "raw slot", 5000),
    ]
    assert found[0].requires_grad and not found[1].requires_grad
