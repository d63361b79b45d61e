"""Wrapped stages in one process, which changes tensors between them as the engine does."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from pipecodec import StructureChangedError, partition_modules
from pipecodec.deepspeed import DeepSpeedPipeStageWrapper
from pipecodec.engine.batch import packing_batch_fn
from pipecodec.registry import get_dialect


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(x) * scale, "note": {"step": 7, "none": None}}


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, hidden: torch.Tensor, note: dict[str, Any], y: torch.Tensor) -> Any:
        assert note == {"step": 7, "none": None}
        return {"logits": self.linear(hidden), "target": y}


class Dead(nn.Module):
    """A stage whose outputs do not depend on its inputs."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, hidden: torch.Tensor) -> Any:
        return self.value


def wrapped(
    *modules: nn.Module,
    inputs: tuple[str, ...] = ("x", "scale", "y"),
    outputs: tuple[Any, ...] = (["hidden", "note"], None),
) -> list[DeepSpeedPipeStageWrapper]:
    part = partition_modules(modules, inputs, outputs)
    return [
        DeepSpeedPipeStageWrapper(
            module,
            k,
            f"submod_{k}",
            len(modules),
            part.liveness,
            part.stage_id_2_arg_names,
            outputs=part.outputs[k],
        )
        for k, module in enumerate(part.stages)
    ]


def carried(sent: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return the next stage's inputs as the engine makes them: floating ones require gradients."""
    received = tuple(tensor.detach().clone() for tensor in sent)
    for tensor in received:
        tensor.requires_grad_(tensor.is_floating_point())
    return received


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.arange(6.0).reshape(2, 3), torch.tensor(0.5), torch.tensor([0, 1])


def test_signature_is_the_origins() -> None:
    names = list(inspect.signature(DeepSpeedPipeStageWrapper).parameters)
    assert names[:6] == [
        "mod",
        "stage_id",
        "name",
        "total_stages",
        "liveness",
        "stage_id_2_arg_names",
    ]
    assert get_dialect("deepspeed", "pipeline_stage") is DeepSpeedPipeStageWrapper


@pytest.mark.slow
def test_import_leaves_deepspeed_alone() -> None:
    code = "import sys, pipecodec.deepspeed; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_values_and_gradients_equal_plain_calls() -> None:
    first, last = wrapped(First(), Last())
    x, scale, y = batch()
    sent = first((x, scale, y))
    received = carried(sent)
    out = last(received)
    out["logits"].sum().backward()
    sent[0].backward(received[0].grad)

    expected = last.mod.linear(first.mod.linear(x) * scale)
    gradients = torch.autograd.grad(expected.sum(), list(first.mod.parameters()))
    assert torch.equal(out["logits"], expected)
    assert torch.equal(out["target"], y)
    for parameter, gradient in zip(first.mod.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_sends_one_floating_tensor_first_and_the_frame_last() -> None:
    first, _ = wrapped(First(), Last())
    tunnel, *rest = first(batch())
    assert tunnel.dtype == torch.float32 and tunnel.requires_grad and tunnel.numel() > 0
    assert rest and all(t.dtype == torch.uint8 and not t.requires_grad for t in rest)
    assert all(t.dim() == 1 for t in (tunnel, rest[-1]))


@pytest.mark.parametrize(
    "given",
    [
        lambda x, scale, y: first_of(x, scale, y),
        lambda x, scale, y: first_of((x, scale, y)),
        lambda x, scale, y: first_of([x, scale, y]),
        lambda x, scale, y: first_of(((x, scale), y)),
        lambda x, scale, y: first_of((x, [scale, y])),
        lambda x, scale, y: first_of(x, scale, y=y),
        lambda x, scale, y: first_of(x, y=y, scale=scale),
    ],
)
def test_takes_a_batch_flat_nested_or_by_name(given: Any) -> None:
    x, scale, y = batch()
    sent, last = given(x, scale, y)
    assert torch.equal(last(carried(sent))["target"], y)


def first_of(*args: Any, **kwargs: Any) -> tuple[Any, DeepSpeedPipeStageWrapper]:
    first, last = wrapped(First(), Last())
    return first(*args, **kwargs), last


def test_batch_order_is_the_models_not_the_first_stages() -> None:
    """A split graph may list the first stage's arguments, and its liveness, in another order."""
    first = DeepSpeedPipeStageWrapper(
        First(),
        0,
        "submod_0",
        2,
        {0: ["scale", "y", "x"], 1: ["hidden", "y"]},
        {-1: ["unused", "x", "scale", "y"], 0: [("scale", "scale"), ("x", "x")], 1: ["hidden"]},
    )
    last = DeepSpeedPipeStageWrapper(
        Dead(torch.ones(1)), 1, "submod_1", 2, first.liveness, first.stage_id_2_arg_names
    )
    x, scale, y = batch()
    expected = first.mod.linear(x) * scale
    for given in ((x, scale, y), (torch.ones(5), x, scale, y)):
        (hidden, received_y), _ = last.incoming.receive(carried(first(given)))
        assert torch.equal(hidden, expected)
        assert torch.equal(received_y, y)


def test_backward_reaches_the_boundary_when_every_value_is_dead() -> None:
    first, last = wrapped(
        First(), Dead(torch.ones(2)), inputs=("x", "scale"), outputs=(["hidden", "note"], None)
    )
    sent = first(batch()[:2])
    received = carried(sent)
    out = last(received)
    out.mul_(3.0)
    assert torch.equal(out, torch.full((2,), 3.0))
    out.sum().backward()
    assert received[0].grad is not None and not received[0].grad[:8].any()
    sent[0].backward(received[0].grad)  # its tail marks them as unused
    assert [p.grad for p in first.mod.parameters()] == [None, None]


def test_output_that_cannot_have_a_gradient_is_returned_as_it_is() -> None:
    count, label = torch.tensor(3), object()
    given = {"count": count, "label": label}
    first, last = wrapped(First(), Dead(given), inputs=("x", "scale"))
    out = last(carried(first(batch()[:2])))
    assert out["count"] is count and out["label"] is label


def test_frozen_stage_gets_an_anchor_with_a_zero_gradient() -> None:
    first, last = wrapped(First().requires_grad_(False), Last())
    assert not hasattr(last, "anchor")
    assert [name for name, p in first.named_parameters() if p.requires_grad] == ["anchor"]
    sent = first(batch())
    received = carried(sent)
    last(received)["logits"].sum().backward()
    sent[0].backward(received[0].grad)
    assert torch.equal(first.anchor.grad, torch.zeros(1))
    assert all(parameter.grad is None for parameter in first.mod.parameters())


def test_reset_after_unfreezing() -> None:
    first, last = wrapped(First().requires_grad_(False), Last())
    last(carried(first(batch())))
    first.mod.requires_grad_(True)
    with pytest.raises(StructureChangedError, match=r"requires a gradient now.*reset\(\)"):
        first(batch())
    first.reset()
    last.reset()
    received = carried(first(batch()))
    last(received)["logits"].sum().backward()
    assert received[0].grad.any()


def test_stage_0_sends_a_differentiable_tunnel_even_if_no_value_is() -> None:
    class Constant(First):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"hidden": self.linear(x).detach()}

    first, _ = wrapped(Constant(), Dead(None), inputs=("x",), outputs=(["hidden"], None))
    tunnel = first(batch()[0])[0]
    tunnel.backward(torch.zeros_like(tunnel))


class Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, hidden: torch.Tensor) -> dict[str, Any]:
        return {"hidden": self.linear(hidden)}


class Early(First):
    """Sends a float tensor without a gradient beside its result."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        self.modes.append(torch.is_grad_enabled())
        return {"hidden": self.linear(x), "early": self.linear(x), "mask": torch.ones(2, 3)}


class Late(Last):
    def forward(self, hidden: torch.Tensor, early: torch.Tensor, mask: torch.Tensor) -> Any:
        return self.linear(hidden * mask + early)


def early_stages() -> list[DeepSpeedPipeStageWrapper]:
    return wrapped(
        Early(),
        Middle(),
        Late(),
        inputs=("x",),
        outputs=(["hidden", "early", "mask"], ["hidden"], None),
    )


def layouts(stages: list[DeepSpeedPipeStageWrapper], modes: list[bool]) -> list[Any]:
    """Send once in each mode, with gradients or without; a dtype and shape for each tensor."""
    made = []
    for training in modes:
        values: Any = (batch()[0],)
        layout = []
        with torch.set_grad_enabled(training):
            for stage in stages[:-1]:
                values = stage(tuple(carried(values)) if stage.stage_id else values)
                assert values[0].requires_grad is training
                layout.append([(t.dtype, t.shape) for t in values])
        made.append(layout)
    assert stages[0].mod.modes == modes
    return made


@pytest.mark.parametrize(
    ("modes", "elements"), [([True, False, True], 20), ([False, True, False], 28)]
)
def test_evaluation_sends_what_training_sends(modes: list[bool], elements: int) -> None:
    """Stage 1 only passes ``early`` on: it is differentiable there because of how it arrived.

    Tensors first sent without gradients could be differentiable, so the mask is in the tunnel.
    """
    stages = early_stages()
    first, *others = layouts(stages, modes)
    assert [layout == first for layout in others] == [True, True]
    assert [boundary[0][1].numel() for boundary in first] == [elements] * 2


def test_a_new_structure_in_evaluation_keeps_to_what_its_leaves_agreed_on() -> None:
    class Moody(Early):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            mood = "happy" if torch.is_grad_enabled() else "sad"
            return {**super().forward(x), "early": (self.linear(x), mood, x.sum() > 0)}

    class Takes(Late):
        def forward(self, hidden: torch.Tensor, early: Any, mask: torch.Tensor) -> Any:
            return super().forward(hidden, early[0], mask)

    stages = wrapped(
        Moody(),
        Takes(),
        inputs=("x",),
        outputs=(["hidden", "early", "mask"], None),
    )
    trained, evaluated, again = layouts(stages, [True, False, True])
    assert trained == evaluated == again


def test_checkpointing_looks_once_at_what_is_differentiable() -> None:
    """The stage runs without gradients, but for the first time; its output never has a graph."""

    def sizes(training: bool) -> tuple[list[int], list[bool]]:
        stage = early_stages()[0].train(training)
        stage.recomputes = True
        with torch.no_grad():
            sent = [stage(batch()[0])[0] for _ in range(2)]
        assert not any(tunnel.requires_grad for tunnel in sent)
        return [tunnel.numel() for tunnel in sent], stage.mod.modes

    assert sizes(training=True) == ([20, 20], [True, False])
    assert sizes(training=False) == ([28, 28], [False, False])


def test_the_anchor_is_no_state() -> None:
    stage, _ = wrapped(First().requires_grad_(False), Last())
    saved = stage.state_dict()
    assert set(saved) == {"mod.linear.weight", "mod.linear.bias"}
    unfrozen, _ = wrapped(First(), Last())
    for target in (stage, unfrozen):
        target.load_state_dict(saved, strict=True)
        target.load_state_dict({**saved, "anchor": torch.zeros(1)}, strict=True)
        with pytest.raises(RuntimeError, match='Unexpected key.*"weight"'):
            target.load_state_dict({**saved, "weight": torch.zeros(1)}, strict=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda first: first(1, 2, 3), ValueError, "stage 0 received no tensor, only"),
        (lambda first: first(torch.ones(3)), ValueError, "stage 0 takes 'scale'"),
        (lambda first: first(*[torch.ones(3)] * 4), TypeError, "4 inputs are given"),
        (lambda first: first(torch.ones(3), z=1), TypeError, "'z' is not an input of the model"),
    ],
)
def test_says_what_a_batch_lacks(call: Any, error: type[Exception], message: str) -> None:
    first, _ = wrapped(First(), Last())
    with pytest.raises(error, match=message):
        call(first)


def test_a_batch_may_require_gradients():
    part = partition_modules([nn.Linear(2, 2), nn.Linear(2, 2)], outputs=["input", None])
    first = DeepSpeedPipeStageWrapper(
        part.stages[0],
        0,
        "submod_0",
        2,
        part.liveness,
        part.stage_id_2_arg_names,
        packed_batches=True,
    )
    load = packing_batch_fn(first, part.input_names, torch.device("cpu"))
    batch = {"input": torch.ones(3, 2, requires_grad=True), "labels": torch.zeros(3)}
    tensors, labels = load(batch)
    assert labels is batch["labels"]
    assert not any(tensor.requires_grad for tensor in tensors)
    values, _ = first.incoming.receive(tensors)
    assert torch.equal(values[0], torch.ones(3, 2))
