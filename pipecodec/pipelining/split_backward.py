"""A backward pass in two parts, for schedules that send gradients before those of weights are made.

torch's own two parts (``_backward.py`` of torch.distributed.pipelining) give weights other
gradients than one pass does where autograd's graph holds one gradient for several weights, a
function whose backward pass writes into tensors that it saved, or a hook. Here:

1. The **first part** gives the stage's input its gradient. Where a node gives gradients to the
   input *and*, directly or through others that do not reach the input, to weights, the gradient
   that enters the node is kept.
2. The **second part** starts from these nodes, one after the other, and goes to their weights only.

So each node runs once, but those in which the ways part: they run once for each part, and autograd
computes only the gradients that are asked for. A weight that is reached from several such nodes
(one that is used several times) gets its gradient in the first part, and so does each behind a node
that cannot run twice, or would have a checkpoint run twice. A graph that cannot be run for some
gradients only is run as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge
from torch.utils import _pytree as pytree
from torch.utils import checkpoint

__all__ = ["SecondPart", "first_part"]

Node = Any


@dataclass
class _Branch:
    """Weights whose gradients are all made from those that enter ``node``."""

    node: Node
    weights: list[torch.Tensor]
    gradients: tuple[torch.Tensor | None, ...] = ()

    def keep(self, gradients: tuple[torch.Tensor | None, ...]) -> None:
        self.gradients = gradients

    def run(self) -> None:
        known = [(i, each) for i, each in enumerate(self.gradients) if each is not None]
        if not known:
            return
        # Hooks of the value, which autograd calls before this one, changed them in the first part.
        handle = self.node.register_prehook(lambda again: self.gradients)
        try:
            torch.autograd.backward(
                [GradientEdge(self.node, i) for i, _ in known],
                [gradient for _, gradient in known],
                inputs=self.weights,
            )
        finally:
            handle.remove()


@dataclass
class SecondPart:
    """The rest of a backward pass."""

    branches: list[_Branch] = field(default_factory=list)

    def run(self) -> None:
        """Add the gradients of the remaining weights."""
        while self.branches:
            self.branches.pop(0).run()


def first_part(
    outputs: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor] | None,
    inputs: Sequence[torch.Tensor],
) -> SecondPart:
    """Add the gradients of ``inputs``, leaves, and of weights that cannot wait.

    ``gradients`` are those of ``outputs``; None: ones.
    """
    graph = _Graph(outputs, inputs)
    branches, weights = graph.parted()
    if not branches:
        torch.autograd.backward(outputs, gradients)
        return SecondPart()
    handles = [branch.node.register_prehook(branch.keep) for branch in branches]
    handles += [node.register_prehook(_own_memory(branches)) for node in graph.custom]
    try:
        torch.autograd.backward(outputs, gradients, retain_graph=True, inputs=[*inputs, *weights])
    finally:
        for handle in handles:
            handle.remove()
    return SecondPart(branches)


class _Graph:
    """The nodes behind ``outputs``, each with those that gradients come from."""

    def __init__(self, outputs: Iterable[torch.Tensor], inputs: Iterable[torch.Tensor]) -> None:
        self.above: dict[Node, list[Node]] = {o.grad_fn: [] for o in outputs if o.grad_fn}
        self.roots = set(self.above)
        waiting = list(self.roots)
        while waiting:
            node = waiting.pop()
            for below, _ in node.next_functions:
                if below is None:
                    continue
                if below not in self.above:
                    self.above[below] = []
                    waiting.append(below)
                self.above[below].append(node)
        self.custom = [node for node in self.above if isinstance(node, BackwardCFunction)]
        own = {id(tensor) for tensor in inputs}
        leaves = [node for node in self.above if type(node).__name__ == "AccumulateGrad"]
        self.weights = [node for node in leaves if id(node.variable) not in own]
        self.to_inputs = self._up(node for node in leaves if id(node.variable) in own)

    def parted(self) -> tuple[list[_Branch], list[torch.Tensor]]:
        """Return the branches of the second part, and the weights of the first one.

        There are none of both if the graph has to be run as a whole.
        """
        if any(map(_runs_whole, self.custom)):
            return [], []
        branches: dict[Node, _Branch] = {}
        first: list[torch.Tensor] = []
        for weight in self.weights:
            partings = self._partings(weight)
            node = next(iter(partings))
            if len(partings) == 1 and node in self.to_inputs and _can_run_twice(node):
                branches.setdefault(node, _Branch(node, [])).weights.append(weight.variable)
            else:
                first.append(weight.variable)
        return list(branches.values()), first

    def _partings(self, weight: Node) -> set[Node]:
        """Return the nodes from which gradients go to this weight, and to the input.

        Among them are the outputs' own that do not lead to the input.
        """
        seen, found, waiting = {weight}, self.roots & {weight}, [weight]
        while waiting:
            for node in self.above[waiting.pop()]:
                if node in self.to_inputs or node in self.roots:
                    found.add(node)
                elif node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return found

    def _up(self, nodes: Iterable[Node]) -> set[Node]:
        seen = set(nodes)
        waiting = list(seen)
        while waiting:
            for node in self.above[waiting.pop()]:
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return seen


def _can_run_twice(node: Node) -> bool:
    """Return whether the node is torch's own, and no checkpoint would run the module again."""
    if isinstance(node, BackwardCFunction) or type(node).__name__ == "CppFunction":
        return False
    saved = [getattr(node, name) for name in dir(node) if name.startswith("_raw_saved_")]
    hooks = [getattr(each, "unpack_hook", None) for each in pytree.tree_leaves(saved)]
    return not any(getattr(hook, "__module__", "") == checkpoint.__name__ for hook in hooks)


def _runs_whole(node: Node) -> bool:
    """Return whether the node refuses a backward pass for some gradients only, or a second one.

    Reentrant checkpoints, of torch and others, hide weights too; compiled code frees its memory.
    """
    name = type(node).__name__
    return "Checkpoint" in name or "Compiled" in name


def _own_memory(branches: Sequence[_Branch]) -> Any:
    """Return a hook that gives a node copies of gradients that are kept, since it may write."""

    def hook(gradients: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor | None, ...]:
        kept = {_memory(g) for branch in branches for g in branch.gradients if g is not None}
        return tuple(
            each.clone() if each is not None and _memory(each) in kept else each
            for each in gradients
        )

    return hook


def _memory(tensor: torch.Tensor) -> Any:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)
