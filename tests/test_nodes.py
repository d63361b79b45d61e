"""The autograd nodes at both ends of a tunnel: gradients, threads and repeated passes."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipecodec import _C, Codec

from .simdev import load


def crossed(sent: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return tensors as an engine hands them over: copies, the tunnel requiring a gradient."""
    return tuple(t.detach().clone().requires_grad_(t.is_floating_point()) for t in sent)


def boundary(value: Any, token: Tensor | None = None) -> tuple[Any, Any, Any, Any]:
    """Return the tensors sent, those that arrived, and the value and the token received."""
    sent = Codec(transport="tunnel").send(value, token)
    arrived = crossed(sent)
    return sent, arrived, *Codec(transport="tunnel").receive(arrived)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("shapes", [[(4, 4)], [(3,)], [(4, 4), (3,), (2, 5)]])
@pytest.mark.parametrize("kind", ["expanded", "transposed", "sliced", "ones", "zeros"])
def test_a_gradient_may_lie_in_memory_as_it_likes(shapes: list[tuple[int, ...]], kind: str) -> None:
    def gradient(like: Tensor) -> Tensor:
        ways: dict[str, Callable[[], Tensor]] = {
            "expanded": lambda: torch.full((), 2.5).expand(like.shape),
            "transposed": lambda: torch.randn(like.shape[::-1]).permute(*range(like.dim())[::-1]),
            "sliced": lambda: torch.randn(*like.shape, 2)[..., 1],
            "ones": lambda: torch.ones_like(like),
            "zeros": lambda: torch.zeros_like(like),
        }
        return ways[kind]()

    own = leaves(*shapes)
    sent, arrived, received, _ = boundary(own)
    expected = [gradient(leaf) for leaf in own]
    torch.autograd.backward(received, expected)
    sent[0].backward(arrived[0].grad)
    for leaf, wanted in zip(own, expected, strict=True):
        assert torch.equal(leaf.grad, wanted)


@pytest.mark.parametrize(
    "replace",
    [
        lambda gradient: torch.zeros(()).expand(gradient.shape),
        lambda gradient: torch.cat([gradient, gradient])[: len(gradient)],
        lambda gradient: torch.stack([gradient, gradient], 1)[:, 0],
    ],
)
@pytest.mark.parametrize("shapes", [[(8,)], [(4, 4), (3,)]])
def test_a_hook_may_replace_the_gradient_of_a_tunnel(replace: Any, shapes: Any) -> None:
    own = leaves(*shapes)
    sent, arrived, received, _ = boundary(own)
    torch.autograd.backward(received, [torch.ones_like(leaf) for leaf in own])
    sent[0].register_hook(replace)
    sent[0].backward(arrived[0].grad)
    zeros = replace(torch.ones(4)).eq(0).all()
    for leaf in own:
        assert torch.equal(leaf.grad, torch.zeros_like(leaf) if zeros else torch.ones_like(leaf))


def test_the_token_is_reached_whatever_is_used() -> None:
    token = torch.zeros(0, requires_grad=True)
    own = leaves((4,), (3,))
    sent, arrived, _, received_token = boundary(own, token)
    (zeros,) = torch.autograd.grad(received_token, arrived[0], torch.zeros(0))
    assert not zeros[:8].any()
    sent[0].backward(zeros)
    assert token.grad is not None
    assert [leaf.grad for leaf in own] == [None, None]


def test_only_what_was_asked_for_is_computed() -> None:
    own = leaves((4,), (3,))
    sent, arrived, received, _ = boundary(own)
    torch.autograd.backward(received, [torch.ones_like(leaf) for leaf in own])
    (found,) = torch.autograd.grad(sent[0], own[1], arrived[0].grad)
    assert torch.equal(found, torch.ones(3))
    assert own[0].grad is None


def test_a_second_derivative_is_an_error_and_no_zero() -> None:
    own = leaves((4,), (3,))
    sent = Codec(transport="tunnel").send(own, None)
    (first,) = torch.autograd.grad(
        sent[0], own[0], torch.ones_like(sent[0], requires_grad=True), create_graph=True
    )
    assert first.requires_grad
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        first.sum().backward()
    arrived = crossed(sent)
    received, _ = Codec(transport="tunnel").receive(arrived)
    weight = torch.ones(4, requires_grad=True)
    (back,) = torch.autograd.grad(received[0], arrived[0], weight * 2, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        back.sum().backward()


def test_backward_may_run_twice_where_the_graph_is_kept() -> None:
    own = leaves((4,), (3,))
    sent, arrived, received, _ = boundary(own)
    for _ in range(2):
        torch.autograd.backward(received, [torch.ones_like(x) for x in own], retain_graph=True)
    assert [x.grad for x in own] == [None, None]
    arrived[0].grad = None
    torch.autograd.backward(received, [torch.ones_like(leaf) for leaf in own])
    for _ in range(2):
        sent[0].backward(arrived[0].grad, retain_graph=True)
    assert all(torch.equal(leaf.grad, torch.full_like(leaf, 2.0)) for leaf in own)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_mode_names_the_boundary() -> None:
    with torch.autograd.detect_anomaly(check_nan=True):
        own = leaves((4,), (3,))
        sent, arrived, received, _ = boundary(own)
        torch.autograd.backward(received, [torch.ones_like(leaf) for leaf in own])
        sent[0].backward(arrived[0].grad)
        assert all(torch.equal(leaf.grad, torch.ones_like(leaf)) for leaf in own)
        sent = Codec(transport="tunnel").send(own, None)
        with pytest.raises(RuntimeError, match="PipecodecEntry"):
            sent[0].backward(torch.full_like(sent[0], float("nan")))


@pytest.mark.slow  # torch 2.8 starts a process for it
def test_compiled_autograd_is_refused() -> None:
    from torch._dynamo import compiled_autograd

    own = leaves((4,), (3,))
    sent = Codec(transport="tunnel").send(own, None)
    with (
        pytest.raises(RuntimeError, match="compiled autograd cannot run a boundary"),
        compiled_autograd._enable(lambda graph: graph),
    ):
        sent[0].backward(torch.zeros_like(sent[0]))


def test_threads_run_backward_of_one_codec_at_a_time_and_together() -> None:
    sender, receiver = Codec(transport="tunnel"), Codec(transport="tunnel")
    wrong: list[Any] = []

    def work(seed: int) -> None:
        try:
            for step in range(60):
                own = leaves((16,), (5,))
                sent = sender.send(own, None)
                arrived = crossed(sent)
                received, _ = receiver.receive(arrived)
                scale = float(seed * 100 + step)
                torch.autograd.backward(received, [torch.full_like(x, scale) for x in own])
                sent[0].backward(arrived[0].grad)
                if not all(torch.equal(x.grad, torch.full_like(x, scale)) for x in own):
                    wrong.append((seed, step))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def call_back_from_a_thread_of_torch() -> None:
    """Backward of a device runs in a thread of torch's own, which never held Python's lock.

    In a process of its own: torch counts the devices before its first backward pass.
    """
    load()
    own = [torch.randn(16).to("sim").requires_grad_()]
    sender, receiver = Codec(transport="tunnel"), Codec(transport="tunnel")
    told: list[Any] = []
    receiver.note_unused = lambda unused, tunnel: told.append((unused, len(tunnel)))

    def take(gradient: Tensor) -> bool:
        told.append((threading.get_ident() != threading.main_thread().ident, gradient.device.type))
        return False

    sender.donate_gradient = take
    sent = sender.send(own, None)
    arrived = crossed(sent)
    received, _ = receiver.receive(arrived)
    received[0].backward(torch.ones(16).to("sim"))
    sent[0].backward(arrived[0].grad)
    assert told == [([], 1), (True, "sim")]
    assert torch.equal(own[0].grad.cpu(), torch.ones(16))


@pytest.mark.slow
def test_nodes_call_back_from_a_thread_that_never_held_the_lock() -> None:
    # torch's threads of other devices may begin only now, and end a process whose Python ends.
    call = f"import os, {__name__} as tests; tests.call_back_from_a_thread_of_torch(); os._exit(0)"
    ended = subprocess.run(
        [sys.executable, "-c", call], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("error", [KeyError("a name"), KeyboardInterrupt()])
def test_an_error_of_a_callback_is_that_error(error: BaseException) -> None:
    def fail(*_: Any) -> bool:
        raise error

    (own,) = leaves((4,))
    sender, receiver = Codec(transport="tunnel"), Codec(transport="tunnel")
    sender.donate_gradient = receiver.note_unused = fail
    sent = sender.send(own, None)
    arrived = crossed(sent)
    received, _ = receiver.receive(arrived)
    with pytest.raises(type(error)):
        received.sum().backward()
    with pytest.raises(type(error)):
        sent[0].backward(torch.ones_like(sent[0]))
    assert own.grad is None


def test_codecs_whose_callbacks_know_them_are_collected() -> None:
    def gone(make_graph: bool) -> weakref.ref[Codec]:
        codec = Codec(transport="tunnel")
        codec.donate_gradient = lambda gradient, codec=codec: False
        codec.note_unused = lambda unused, tunnel, codec=codec: None
        if make_graph:
            codec.send(leaves((4,)), None)
        return weakref.ref(codec)

    for make_graph in (False, True):
        reference = gone(make_graph)
        gc.collect()
        assert reference() is None


def test_leaves_that_are_left_out_are_not_reached() -> None:
    codec, other = Codec(transport="tunnel"), Codec(transport="tunnel")
    calls: list[str] = []
    first, second = leaves((4,), (4,))
    first.register_hook(lambda gradient: calls.append("first"))
    second.register_hook(lambda gradient: calls.append("second"))
    codec.in_flight = deque()
    sent = codec.send([first * 1, second * 1], None)
    ((tunnel, reference),) = codec.in_flight
    assert len(tunnel) == 2 and reference() is sent[0]
    _C.leave_out(sent[0], [0])
    sent[0].backward(torch.ones_like(sent[0]))
    assert calls == ["second"]
    assert first.grad is None
    _C.leave_out(torch.ones(3), [0])  # not a tunnel: nothing to leave out
    assert _C.entered_with_gradients(sent[0])
    assert not _C.entered_with_gradients(other.send([first.detach()] * 2, None)[0])
