"""``pipecodec inspect``: a frame as a tree, and the place where a broken one breaks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecodec import _C, Codec, FrameError
from pipecodec.cli import inspect as module
from pipecodec.cli.frame_text import FrameText
from pipecodec.cli.reading import DTYPES, read
from tests import hostile, oracle
from tests.corpus import structures
from tests.golden import read_golden

from .running import invoke

GOLDEN = {golden.name: golden.frame for golden in read_golden()}
VALUE = {
    "hidden": torch.ones(2, 3, requires_grad=True),
    "mask": {"rows": torch.ones(2, 3, dtype=torch.bool), "none": None},
    ("a", (1, 2)): [7, 0.5, 2j, "x\x1b[31m\u202e", {1}, slice(1, None, 2), 2**80, True],
}


def frame_of(value: Any, **settings: Any) -> bytes:
    return bytes(Codec(**settings).pack(value)[-1].numpy().tobytes())


def verdict(data: bytes) -> FrameError | list[Any]:
    """The extension's error, or its rows."""
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        return list(_C.ReceivedFrame([tensor]).rows())
    except FrameError as error:
        return error


def compared(data: bytes, frame: FrameText, rows: list[Any]) -> None:
    """The reader's nodes are the extension's rows, but for the constants that rows have as text."""
    assert frame.stopped is None
    nodes = [
        node
        for node in frame.nodes
        if node.role == "value"
        and (not node.constant or node.parent is None or not holder(frame, node.parent))
    ]
    assert len(nodes) == len(rows)
    for node, (depth, _, label, kind, text, items, leaf) in zip(nodes, rows, strict=True):
        assert (node.depth, node.kind, node.items) == (depth, kind, items)
        assert node.label == label or "…" in label or not label.endswith("]") or "(" in label
        assert data[node.offset] == _C.TYPE_CODES[kind]
        if node.leaf is not None:
            dtype, shape, route, requires_grad, _, strides = leaf
            assert (node.leaf.dtype, node.leaf.shape) == (dtype, shape)
            assert (node.leaf.route, node.leaf.requires_grad) == (route, requires_grad)
            assert node.leaf.strides in (None, strides) or route == "slot"
        elif kind == "INT":
            assert node.text == text


def holder(frame: FrameText, index: int | None) -> bool:
    """Whether a node, or one that it is in, is a container of constants."""
    while index is not None:
        node = frame.nodes[index]
        if node.role != "value" or node.kind in ("SET", "FROZEN_SET", "SIZE", "SLICE", "RANGE"):
            return True
        index = node.parent
    return False


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_frames_are_read_as_the_extension_reads_them(name: str) -> None:
    rows = verdict(GOLDEN[name])
    assert isinstance(rows, list)
    compared(GOLDEN[name], read(GOLDEN[name]), rows)


@pytest.mark.parametrize("name", structures())
def test_values_are_read_as_the_extension_reads_them(name: str) -> None:
    for settings in ({}, {"transport": "tunnel"}):
        data = frame_of(structures()[name], **settings)
        rows = verdict(data)
        assert isinstance(rows, list)
        compared(data, read(data), rows)


@pytest.mark.parametrize("name", hostile.frames(1000))
def test_hostile_frames_are_read_or_refused_as_the_extension_does(name: str) -> None:
    data = hostile.frames(3_000)[name]
    found, frame = verdict(data), read(data)
    ended = invoke("inspect", "-", stdin=data)
    assert "Traceback" not in ended.output
    if isinstance(found, FrameError):
        assert ended.exit_code == 1
        assert f"({found.reason}, " in ended.stderr
        assert f"byte {found.offset}: " in ended.stderr
    else:
        assert ended.exit_code == 0, ended.stderr
        compared(data, frame, found)
    assert len(ended.stdout) < 400 * len(data)


@pytest.mark.parametrize("reason", hostile.wrong())
def test_each_reason_with_its_byte_and_its_place(reason: str) -> None:
    data, offset = hostile.wrong()[reason]
    found = verdict(data)
    plain = json.loads(invoke("inspect", "--json", "-", stdin=data).stdout)
    ended = invoke("inspect", "-", stdin=data)
    if isinstance(found, list):  # only building the value shows that this process cannot
        assert reason in ("unknown_type", "rejected")
        assert (ended.exit_code, plain["error"]) == (0, None)
        return
    assert ended.exit_code == 1
    assert (plain["error"]["reason"], plain["error"]["offset"]) == (reason, offset)
    assert plain["error"]["where"] in ended.stderr
    assert f"broken: {reason} at byte {offset}, {plain['error']['where']}" in ended.stdout
    assert re.search(r"header\n.*magic: ", ended.stdout), "it shows the part that can be read"


@pytest.mark.parametrize(
    ("reason", "where"),
    [
        ("truncated", "in the header, checksum"),
        ("version", "in the header, version"),
        ("length", "in the header, structure bytes"),
        ("unknown_code", "in the structure, outputs[0]"),
        ("misplaced_code", "in the structure, outputs[0]"),
        ("trailing", "in the structure, behind its last item"),
        ("padding", "in the padding"),
    ],
)
def test_the_place(reason: str, where: str) -> None:
    data, _ = hostile.wrong()[reason]
    assert (
        json.loads(invoke("inspect", "--json", "-", stdin=data).stdout)["error"]["where"] == where
    )


def test_a_place_deep_in_a_value() -> None:
    inner = b"\x11\1" + hostile.key("k") + bytes([99])  # {'k': an unknown code}
    data = hostile.seal(b"\3\2\2\x04\1" + inner)
    ended = invoke("inspect", "-", stdin=data)
    assert "in the structure, outputs[1][0]['k']" in ended.stderr
    assert "[0]: dict (1)" in ended.stdout


def test_any_flipped_byte_is_survived() -> None:
    data = frame_of(VALUE)
    used = int.from_bytes(data[8:16], "little")
    for at in range(used):
        for value in (0, 1, 31, 127, 128, 255):
            broken = data[:at] + bytes([value]) + data[at + 1 :]
            read(broken)
    for size in range(used):
        frame = read(data[:size])
        assert frame.stopped is not None or size >= used - 16
        assert frame.place(max(size - 1, 0))


def test_every_field_is_shown() -> None:
    shown = invoke("inspect", "-", stdin=frame_of(VALUE)).stdout
    for text in (
        "magic: 89 50 43 46", "version: 2", "flags: 1 (payload covered)", "reserved: 0",
        "structure bytes: ", "shapes bytes: 4", "values bytes: ", "leaves: 2", "structure hash: ",
        "checksum: ", "['hidden']: tensor float32 [2, 3], slot, requires grad",
        "['rows']: tensor bool [2, 3], slot", "['none']: None", "[('a', (1, 2))]: list (8)",
        "[0]: int 7", "[1]: float 0.5", "[2]: complex 2j", r"[3]: str 'x\x1b[31m\u202e'",
        "[4]: set (1)", ".start: int 1", ".stop: None", ".step: int 2", "[7]: bool True",
    ):  # fmt: skip
        assert text in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def test_strides_and_routes_are_shown() -> None:
    turned = torch.ones(3, 2).t().requires_grad_()
    shown = invoke("inspect", "-", stdin=frame_of([turned], transport="tunnel")).stdout
    assert "[0]: tensor float32 [2, 3] with strides [1, 2], tunnel, requires grad" in shown


def test_json_has_every_node() -> None:
    ended = invoke("inspect", "-", "--json", stdin=frame_of(VALUE))
    plain = json.loads(ended.stdout)
    assert ended.stderr == ""
    nodes = {node["path"]: node for node in plain["nodes"]}
    assert nodes["outputs['hidden']"]["leaf"] == {
        "dtype": "float32", "shape": [2, 3], "strides": None, "route": "slot",
        "requires_grad": True, "nested": False,
    }  # fmt: skip
    assert nodes["outputs[('a', (1, 2))][0]"]["value"] == "7"
    assert plain["header"]["used"]["offset"] == 8
    assert plain["sections"][0] == {"name": "structure", "begin": 48,
                                    "end": plain["sections"][1]["begin"]}  # fmt: skip


def test_the_dtypes_are_those_of_torch() -> None:
    assert DTYPES == oracle.DTYPES


def test_a_frame_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "frame.bin"
    Codec().pack(VALUE)[-1].numpy().tofile(file)
    assert invoke("inspect", file).exit_code == 0
    file.write_bytes(file.read_bytes()[:100])
    ended = invoke("inspect", file)
    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"Error: {file} is a broken frame (length, in the header, used)")


def test_nothing_to_read(tmp_path: Path) -> None:
    empty, missing = tmp_path / "empty", tmp_path / "missing"
    empty.touch()
    for file, code, said in (
        (empty, 1, f"{empty} is empty"),
        (missing, 2, f"cannot read {missing}: No such file or directory"),
        (tmp_path, 2, f"cannot read {tmp_path}: Is a directory"),
        ("-", 1, "stdin is empty"),
    ):
        ended = invoke("inspect", file)
        assert (ended.exit_code, ended.stderr) == (code, f"Error: {said}\n")
    assert invoke("inspect").exit_code == 2


def test_a_file_without_an_end() -> None:
    ended = invoke("inspect", "/dev/zero")
    assert ended.exit_code == 1
    assert "is a broken frame (magic, in the header, magic)" in ended.stderr
    assert len(ended.stdout) < 5000


def test_more_than_a_frame_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "huge"
    with file.open("wb") as opened:
        opened.truncate(module.LARGEST + 1)  # takes no room on the disk
    ended = invoke("inspect", file)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert (
        ended.stderr == f"Error: {file} has more than 256 MiB, the most that is read as a frame\n"
    )


def test_a_stream_that_begins_as_a_frame_and_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 4 << 20)
    ended = invoke("inspect", "-", stdin=b"\x89PCF" + bytes(9 << 20))
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Error: stdin has more than 4 MiB")
