"""The two parts of a split backward pass: which gradients come with the first, which later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec.pipelining.split_backward import first_part

from .split_stages import MIDDLES
from .stages import WIDTH, Middle

LATER = {
    "Middle": {"linear.weight", "linear.bias", "norm.weight", "norm.bias"},
    "Repeated": set(),
    "SameGradient": {"one", "two", "three"},
    "Alone": set(),
    "Fused": set(),
    "Experts": {"gate.weight", "gate.bias"},
    "Reentrant": set(),
    "Checkpointed": {"norm.weight", "norm.bias"},
}


def passed(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Any]:
    torch.manual_seed(0)
    module = kind()
    hidden = torch.randn(4, 6, WIDTH, requires_grad=True)
    outputs = list(module(hidden).values())
    tensors = [o for o in outputs if isinstance(o, Tensor)]
    return module, hidden, tensors


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", LATER)
def test_weights_of_the_second_part(name: str) -> None:
    kind: type[nn.Module] = MIDDLES.get(name, Middle)
    module, hidden, outputs = passed(kind)
    torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    whole, of_input = gradients(module), hidden.grad
    module, hidden, outputs = passed(kind)
    rest = first_part(outputs, [torch.ones_like(o) for o in outputs], [hidden])
    assert torch.equal(hidden.grad, of_input)
    first = gradients(module)
    rest.run()
    both = gradients(module)
    assert set(both) == set(whole)
    assert all(torch.equal(both[each], whole[each]) for each in whole)
    assert set(both) - set(first) == LATER[name]


def test_gradient_that_a_function_writes_into_later() -> None:
    class Writes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient.mul_(2)

    bias = torch.zeros(3, requires_grad=True)
    hidden = torch.randn(3, requires_grad=True)
    output = Writes.apply(hidden) + bias
    rest = first_part([output], [torch.ones(3)], [hidden])
    rest.run()
    assert hidden.grad is not None and hidden.grad.tolist() == [2.0] * 3
    assert bias.grad is not None and bias.grad.tolist() == [1.0] * 3
