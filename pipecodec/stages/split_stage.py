"""Builds one stage of a split graph: a GraphModule that takes and holds only the values it uses."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from .exported import guard_constants
from .split_tensors import attribute, fitted

__all__ = ["BuiltStage", "build_stage"]


@dataclass(frozen=True)
class BuiltStage:
    """A stage's module and its arguments, as nodes of the split graph.

    ``required`` are passed by position; ``optional``, the inputs that have a default, by name.
    """

    module: nn.Module
    required: list[fx.Node]
    optional: dict[str, fx.Node]


def build_stage(
    split: fx.GraphModule,
    call: fx.Node,
    shared: Mapping[str, nn.Parameter],
    *,
    output: Any = None,
    structure: Any = None,
) -> BuiltStage:
    """Build the stage that `call` calls.

    `shared` gives parameters, by path in the stage's module, that replace the stage's own. With
    `output` the stage returns that expression over nodes of the split graph in place of its result,
    and with `structure` that flat list as this pytree.
    """
    module = split.get_submodule(str(call.target))
    bound = _bound(module, call)
    used = list(_nodes(bound.values()))
    used += [node for node in _nodes([output]) if _source(node) is not call]
    attributes = {node: str(node.target) for node in used if node.op == "get_attr"}
    inputs = {node: None for node in used if node not in attributes}
    required = [node for node in inputs if not _has_default(node)]
    optional = [node for node in inputs if _has_default(node)]

    graph = fx.Graph()
    own = _placeholders(graph, [*required, *optional], bound)
    names = {node: str(placeholder.target) for node, placeholder in own.items()}
    own |= {node: graph.create_node("get_attr", path) for node, path in attributes.items()}
    root = {path: attribute(split, path) for path in attributes.values()}
    inside = {key: map_arg(value, own.__getitem__) for key, value in bound.items()}
    if isinstance(module, fx.GraphModule):
        result: Any = graph.graph_copy(module.graph, inside)
        held = fitted(module, shared)
        for path in _targets(graph, but=root):
            root[path] = attribute(held, path)
    else:
        root["module"] = module
        result = graph.call_module("module", inside["args"], inside["kwargs"])
    if output is not None:
        result = map_arg(output, _Values(graph, {**own, call: result}))
    if structure is not None:
        root["output_structure"] = structure
        spec = graph.create_node("get_attr", "output_structure")
        result = graph.call_function(pytree.tree_unflatten, (result, spec))
    graph.output(result)
    stage = fx.GraphModule(root, graph, type(module).__name__)
    guard_constants(stage)
    return BuiltStage(stage, required, {names[node]: node for node in optional})


class _Values(dict[fx.Node, Any]):
    """Values of the split graph inside the last stage; called, it takes items out of them."""

    def __init__(self, graph: fx.Graph, known: Mapping[fx.Node, Any]) -> None:
        super().__init__(known)
        self._graph = graph

    def __call__(self, node: fx.Node) -> Any:
        if node not in self:
            source, key = node.args
            whole = self(source)  # type: ignore[arg-type]
            self[node] = (
                self._graph.call_function(operator.getitem, (whole, key))
                if isinstance(whole, fx.Node)
                else whole[key]
            )
        return self[node]


def _bound(module: nn.Module, call: fx.Node) -> dict[Any, Any]:
    """Return the expression that each placeholder of the stage stands for, None if it is unused."""
    if not isinstance(module, fx.GraphModule):
        return {"args": call.args, "kwargs": call.kwargs}
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    given = dict(zip((p.target for p in placeholders), call.args, strict=False)) | call.kwargs
    bound: dict[Any, Any] = {}
    for p in placeholders:
        if p.users and p.target not in given and not p.args:
            raise ValueError(f"stage {call.target} is called without its argument {p.target!r}")
        bound[p] = given.get(p.target, *p.args) if p.users else None
    return bound


def _nodes(expressions: Iterable[Any]) -> list[fx.Node]:
    found: dict[fx.Node, None] = {}
    for expression in expressions:
        map_arg(expression, lambda node: found.setdefault(node))
    return list(found)


def _source(node: fx.Node) -> fx.Node:
    """Return the node out of which getitem takes `node`."""
    while node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _has_default(node: fx.Node) -> bool:
    return node.op == "placeholder" and bool(node.args)


def _placeholders(
    graph: fx.Graph, inputs: Iterable[fx.Node], bound: Mapping[Any, Any]
) -> dict[fx.Node, fx.Node]:
    """Add a placeholder for each input, with the name and meta it has in the stage's own graph."""
    known = {
        value: key
        for key, value in bound.items()
        if isinstance(key, fx.Node) and isinstance(value, fx.Node)
    }
    own: dict[fx.Node, fx.Node] = {}
    taken: set[str] = set()
    for node in inputs:
        like = known.get(node, node)
        name = str(like.target if like.op == "placeholder" else like.name).lstrip("*")
        while name in taken:
            name += "_"
        taken.add(name)
        default = node.args if _has_default(node) else ()
        own[node] = graph.create_node("placeholder", name, tuple(default), {}, name)
        own[node].meta = dict(like.meta)
    return own


def _targets(graph: fx.Graph, but: Mapping[str, Any]) -> list[str]:
    """Return the attributes and modules that the graph uses, a module before its parts."""
    nodes = [node for node in graph.nodes if node.op in ("get_attr", "call_module")]
    return [path for path in dict.fromkeys(str(node.target) for node in nodes) if path not in but]
