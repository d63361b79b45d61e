"""pack, unpack and Codec: every value comes back as it was, and as the oracle has it."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from pipecodec import (
    Codec,
    FrameCapacityError,
    FrameError,
    UnsupportedTypeError,
    describe,
    pack,
    unpack,
)
from tests import oracle
from tests.corpus import Colour, Output, Plain, Point, same, structures
from tests.strategies import values


def frame_bytes(tensors: tuple[torch.Tensor, ...]) -> bytes:
    return tensors[-1].numpy().tobytes()


@pytest.mark.parametrize("name", structures())
def test_value_comes_back(name: str) -> None:
    value = structures()[name]
    assert same(unpack(pack(value)), value)


@pytest.mark.parametrize("name", structures())
def test_frame_is_the_oracles(name: str) -> None:
    value = structures()[name]
    *slots, _ = packed = pack(value)
    leaves, frame = oracle.encode(value)
    assert frame_bytes(packed) == frame.ljust(len(frame_bytes(packed)), b"\0")
    assert all(a is b for a, b in zip(slots, leaves, strict=True))
    if name != "deep":  # the oracle recurses
        assert same(oracle.decode(slots, frame_bytes(packed)), value)


@settings(max_examples=500, deadline=None)
@given(values)
def test_any_value_is_the_oracles(value: Any) -> None:
    *slots, _ = packed = pack(value)
    leaves, frame = oracle.encode(value)
    assert frame_bytes(packed).rstrip(b"\0") == frame.rstrip(b"\0")
    assert len(frame_bytes(packed)) % 256 == 0
    assert all(a is b for a, b in zip(slots, leaves, strict=True))
    assert same(unpack(packed), value)
    assert same(oracle.decode(slots, frame_bytes(packed)), value)


def test_slots_are_the_tensors_themselves() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    sparse = torch.eye(3).to_sparse()
    packed = pack([parameter, {"s": sparse}, parameter])
    assert len(packed) == 3
    assert packed[0] is parameter
    value = unpack(packed)
    assert value[0] is parameter and value[1]["s"] is sparse and value[2] is parameter


@pytest.mark.parametrize(
    "odd",
    [
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        torch.eye(3).to_sparse(),
        torch.eye(3, dtype=torch.complex64).conj(),
        torch.ones(2, device="meta"),
        torch.zeros(2, dtype=torch.uint16),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tensor.layout} {tensor.device}",
)
def test_any_tensor_passes_as_a_slot(odd: torch.Tensor) -> None:
    codec = Codec()
    for _ in range(3):
        packed = codec.pack({"odd": odd})
        assert packed[-1].is_cpu
        assert codec.unpack(packed)["odd"] is odd
        assert unpack(pack([odd]))[0] is odd
    if odd.is_nested:
        assert "float32 nested" in describe({"odd": odd})
        with pytest.raises(FrameError, match="the frame says Float nested, the tensor is Float"):
            codec.unpack((torch.ones(2), packed[-1]))


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), "is nested; send its"),
        (torch.eye(3).to_sparse(), "is not strided"),
        (torch.ones(2, device="meta"), "is on the meta device and has no data"),
    ],
)
def test_bits_that_cannot_travel(odd: torch.Tensor, message: str) -> None:
    codec = Codec(transport="tunnel", name="boundary 0→1")
    with pytest.raises(UnsupportedTypeError, match=rf"^boundary 0→1: outputs\['odd'\] {message}"):
        codec.pack({"odd": odd})


def test_unpack_takes_a_list() -> None:
    assert unpack(list(pack([1, 2]))) == [1, 2]


def test_frame_follows_the_device_asked_for() -> None:
    assert pack([1], device="cpu")[-1].device == torch.device("cpu")
    assert pack([1], torch.device("cpu"))[-1].device == torch.device("cpu")
    with pytest.raises(RuntimeError, match="nowhere"):
        pack([1], device="nowhere")


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="needs the argument 'obj'"):
        pack()
    with pytest.raises(TypeError, match="no argument 'where'"):
        pack(1, where="cpu")
    with pytest.raises(TypeError, match="at most 2 arguments"):
        pack(1, None, 2)
    with pytest.raises(TypeError, match="'obj' twice"):
        pack(1, obj=2)
    with pytest.raises(TypeError, match="tuple or list of tensors"):
        unpack(torch.ones(2))


class Text(str):
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [1, 2, {"fn": len}],
            r"^outputs\[2\]\['fn'\] is of type builtin_function_or_method, which",
        ),
        (
            [lambda: 0],
            r"^outputs\[0\] is of type function, .* register the type with pipecodec",
        ),
        (
            Text("x"),
            r"^outputs is of type tests.test_codec.Text, a subclass of str .* convert it with str",
        ),
        (
            (torch.Size([1]), type("Local", (tuple,), {})()),
            r"^outputs\[1\] is of type tests.test_codec.Local, a subclass of tuple",
        ),
        (Point(1, Point(object())), r"^outputs.y.x is of type object, which is not taken apart"),
        (Output([3, {4: set}]), r"^outputs.hidden\[1\]\[4\] is of type type"),
        ({(1, torch.ones(1)): 2}, r"^outputs key .*\[1\] is a tensor inside a key"),
        ({"a\ud800": 1}, r"^outputs key .* is a str with lone surrogates"),
        (["\udfff"], r"^outputs\[0\] is a str with lone surrogates"),
        (Colour, r"^outputs is of type enum.Enum(Type|Meta)"),  # the second before Python 3.11
        (slice(torch.ones(1)), r"^outputs.stop is a tensor inside"),
        (memoryview(b"x"), r"^outputs is of type memoryview"),
        (Plain.__new__(Plain), r"^outputs is of type tests.corpus.Plain, which is not taken apart"),
    ],
)
def test_unsupported_values_are_named(value: Any, message: str) -> None:
    with pytest.raises(UnsupportedTypeError, match=message):
        pack(value)
    with pytest.raises(TypeError):
        pack(value)


def test_a_class_that_cannot_be_found_again_is_refused() -> None:
    class Local(Point):
        pass

    with pytest.raises(UnsupportedTypeError, match="whose name does not lead back"):
        pack([Local(1)])


def test_a_dataclass_with_another_attribute_is_refused() -> None:
    value = Output(1)
    value.extra = 2  # type: ignore[attr-defined]
    with pytest.raises(
        UnsupportedTypeError, match=r"attribute that is no field of its class \('extra'\)"
    ):
        pack(value)


def test_too_deep_and_endless_structures_are_refused() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnsupportedTypeError, match="nested more than 1000 containers deep"):
        pack(deep)
    endless: list[Any] = [0]
    endless.append({"again": endless})
    with pytest.raises(
        UnsupportedTypeError, match=r"^outputs\['x'\]\[1\]\['again'\] contains itself"
    ):
        pack({"x": endless})
    assert unpack(pack([1])) == [1]
    # Its own deallocation is iterative only for lists that die one by one.
    while isinstance(deep, list):
        deep = deep.pop()


def test_a_container_that_changes_while_packed_is_refused() -> None:
    victim: list[Any] = [0, 1, 2]

    class Sneaky(Point):
        __slots__ = ()

        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            victim.pop()
            return {}

    globals()["Sneaky"] = Sneaky
    Sneaky.__qualname__ = "Sneaky"
    victim[0] = Sneaky(1)
    with pytest.raises(RuntimeError, match="a list changed its size while it was packed"):
        pack(victim)


def test_an_unchanged_frame_is_the_same_tensor() -> None:
    codec = Codec()
    value = [torch.ones(2), 3]
    first, again = codec.pack(value), codec.pack([torch.zeros(2), 3])
    assert first[-1] is again[-1]
    other = codec.pack([torch.ones(2), 4])
    assert other[-1] is not first[-1]
    assert unpack(first)[1] == 3
    assert unpack(other)[1] == 4
    assert codec.stats.frames == 3
    assert codec.stats.hits == 1


def test_frames_in_inference_mode() -> None:
    codec = Codec()
    with torch.inference_mode():
        assert codec.unpack(codec.pack([1, torch.ones(2)]))[0] == 1
        assert codec.unpack(codec.pack([2, torch.ones(2)]))[0] == 2


def test_stats_count() -> None:
    codec = Codec()
    value = [torch.ones(2, dtype=torch.float64)]
    for _ in range(3):
        codec.unpack(codec.pack(value))
    assert codec.stats == (3, 2, 3 * (16 + 512), 6, 3)


def test_capacity_is_agreed_with_the_first_frame() -> None:
    codec = Codec(name="boundary 1→2")
    assert codec.pack(["x"])[-1].numel() == 512
    assert codec.pack(["x" * 300])[-1].numel() == 512
    with pytest.raises(
        FrameCapacityError,
        match=r"^boundary 1→2: this frame needs \d+ bytes, .* agreed on 512; set capacity=768",
    ):
        codec.pack(["x" * 600])
    assert codec.unpack(codec.pack(["x"])) == ["x"]
    codec.reset()
    assert codec.pack(["x" * 600])[-1].numel() == 1024
    assert Codec(capacity=2048).pack(["x"])[-1].numel() == 2048


@pytest.mark.parametrize(
    "arguments",
    [
        {"capacity": 100},
        {"capacity": 0},
        {"read": "never"},
        {"transport": "air"},
        {"values": "odd"},
        {"differentiable": "no"},
    ],
)
def test_settings_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Codec(**arguments)


@pytest.fixture
def _restless() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless")
@pytest.mark.parametrize("point", [Point, lambda i, tensor: [i, tensor]])
def test_one_codec_in_many_threads(point: Any) -> None:
    codec = Codec()
    failures: list[Any] = []

    def work(number: int) -> None:
        tensor = torch.full((3,), number)
        for i in range(2000):
            value = {"n": number, "i": i, "t": tensor, "p": point(i, tensor)}
            if not same(codec.unpack(codec.pack(value)), value):
                failures.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert codec.stats.frames == 8000


def test_the_end_of_a_frame_may_run_code_that_packs() -> None:
    """The packed value used to get the numbers of the one that such code packed."""
    codec, inner = Codec(), []
    for number in range(3):
        packed = codec.pack(["text", number])
    watch = weakref.ref(packed[-1], lambda _: inner.append(codec.pack(["text", 99])))
    del packed
    packed = codec.pack(["text", 5])
    assert watch() is None
    assert [unpack(each) for each in (packed, *inner)] == [["text", 5], ["text", 99]]


class Reentrant(Point):
    __slots__ = ()
    codec: Any = None

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        assert self.codec.unpack(self.codec.pack(["inner", 1])) == ["inner", 1]
        return {}


def test_a_value_whose_own_code_packs() -> None:
    Reentrant.codec = Codec()
    value = ["outer", Reentrant(torch.ones(1)), "end"]
    packed = Reentrant.codec.pack(value)
    assert same(unpack(packed)[1].x, value[1].x)
    assert unpack(packed)[::2] == ["outer", "end"]


def test_a_million_leaves() -> None:
    tensor = torch.ones(1)
    leaves = [tensor.detach() for _ in range(1_000_000)]
    assert all(a is b for a, b in zip(unpack(pack(leaves)), leaves, strict=True))


def test_nothing_leaks() -> None:
    value = structures()["nested"]
    bad = [value, object()]
    counts = []
    for _ in range(3):
        for _ in range(2000):
            unpack(pack(value))
            with pytest.raises(UnsupportedTypeError):
                pack(bad)
        counts.append(
            (
                sys.getrefcount(value),
                sys.getrefcount(value[0][0]),
                sys.getrefcount(None) > 0,
                len(bad),
            )
        )
    assert counts[0] == counts[2]


@pytest.mark.slow
def test_import_is_light() -> None:
    heavy = "{'deepspeed', 'transformers', 'numpy.testing'}"
    script = f"import sys, pipecodec; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 0
