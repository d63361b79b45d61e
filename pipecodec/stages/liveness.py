"""Finds the named values that must enter each pipeline stage."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import fx

__all__ = ["Arg", "Liveness", "OptionalArg", "analyze_graph", "analyze_signatures", "arg_name"]


class OptionalArg(NamedTuple):
    """A keyword argument that is left out when its value is absent: (parameter, value name)."""

    parameter: str
    name: str


Arg = str | tuple[str, str]
"""A value name (passed by position) or a (parameter, value name) pair (passed by keyword)."""


def arg_name(arg: Arg) -> str:
    """Return the name of the value that `arg` passes."""
    return arg if isinstance(arg, str) else arg[1]


@dataclass(frozen=True)
class Liveness:
    """The values that enter each stage.

    ``liveness[k]`` names the values that enter stage k: its own arguments in their order, then
    those it only passes on, in the order of their definition. ``liveness[0]`` names the inputs
    that are needed, in signature order. ``stage_id_2_arg_names[k]`` lists the arguments of stage
    k; key -1 lists all inputs of the model.
    """

    liveness: list[list[str]]
    stage_id_2_arg_names: dict[int, list[Arg]]


def analyze_graph(gm: fx.GraphModule, order: Sequence[str] | None = None) -> Liveness:
    """Analyze a graph of placeholders, one call_module per stage, getitem and output.

    `order` lists the stages' module names, first stage first. Without it, stages whose names end
    in 0, 1, ... (``submod_0``, ``submod_pp_0``) run by number and others in graph order. An input
    keeps its own name; the result of stage k is ``submod_k``, and item i of it ``submod_k.i``,
    for any name of the stage's module. A value that only the model's output takes enters the last
    stage.

    Raises ValueError for any other node, an argument that is not one value, a stage called twice
    or before a stage it depends on.
    """
    nodes = list(gm.graph.nodes)
    inputs = [str(node.target) for node in nodes if node.op == "placeholder"]
    calls: dict[str, fx.Node] = {}
    for node in nodes:
        if node.op == "call_module":
            if str(node.target) in calls:
                raise ValueError(f"stage {node.target} is called twice; split it into two stages")
            calls[str(node.target)] = node
    stages = _stage_order(list(calls), order)
    names, producer = _name_values(nodes, {target: k for k, target in enumerate(stages)})

    args: dict[int, list[Arg]] = {-1: list(inputs)}
    for k, target in enumerate(stages):
        where = f"stage {k} ({target})"
        positional = [_name_of(value, names, where) for value in calls[target].args]
        keyword = [(p, _name_of(value, names, where)) for p, value in calls[target].kwargs.items()]
        args[k] = [*positional, *keyword]
        for name in map(arg_name, args[k]):
            if producer[name] >= k:
                raise ValueError(
                    f"{where} takes {name!r}, which stage {producer[name]} makes; "
                    f"pass order= with every stage after those it depends on"
                )

    rank = {name: i for i, name in enumerate(sorted(producer, key=producer.__getitem__))}
    live = [names[node] for node in gm.graph.output_node().all_input_nodes]
    liveness: list[list[str]] = []
    for k in reversed(range(len(stages))):
        own = list(dict.fromkeys(map(arg_name, args[k])))
        bypassed = [name for name in live if producer[name] != k and name not in own]
        live = _without_items_of_others([*own, *sorted(bypassed, key=rank.__getitem__)])
        liveness.insert(0, live)
    liveness[0].sort(key=rank.__getitem__)
    return Liveness(liveness, args)


def _name_values(
    nodes: Iterable[fx.Node], stages: Mapping[str, int]
) -> tuple[dict[fx.Node, str], dict[str, int]]:
    """Return the name of each node's value, and the stage that makes each name (-1: an input)."""
    names: dict[fx.Node, str] = {}
    producer: dict[str, int] = {}
    for node in nodes:
        if node.op == "output":
            continue
        if node.op == "call_function" and node.target is operator.getitem:
            source = _name_of(node.args[0], names, str(node))
            names[node] = f"{source}.{_item(node)}"
            producer[names[node]] = producer[source]
            continue
        if node.op == "placeholder":
            name, made_by = str(node.target), -1
        elif node.op == "call_module":
            made_by = stages[str(node.target)]
            name = f"submod_{made_by}"
        else:
            raise ValueError(
                f"the split graph may hold placeholders, stages, getitem and output only; "
                f"move {node.format_node()} into a stage"
            )
        if name in producer:
            raise ValueError(f"two values are named {name!r}; rename the input")
        names[node], producer[name] = name, made_by
    return names, producer


def _stage_order(targets: list[str], order: Sequence[str] | None) -> list[str]:
    if not targets:
        raise ValueError("the graph calls no stage; split the model first")
    if order is None:
        by_number = {target[len(target.rstrip("0123456789")) :]: target for target in targets}
        numbered = [by_number[str(k)] for k in range(len(targets)) if str(k) in by_number]
        return numbered if len(numbered) == len(targets) else targets
    if sorted(order) != sorted(targets):
        raise ValueError(f"order must name every stage once: {sorted(targets)}, not {list(order)}")
    return list(order)


def _name_of(value: object, names: dict[fx.Node, str], where: str) -> str:
    if not isinstance(value, fx.Node):
        raise ValueError(
            f"{where} takes {value!r}, which is not one value of the graph; "
            f"pass each value as an argument of its own and keep constants inside the stage"
        )
    return names[value]


def _item(node: fx.Node) -> str:
    key = node.args[1]
    if isinstance(key, int) or (isinstance(key, str) and key and "." not in key):
        return str(key)
    raise ValueError(
        f"{node.format_node()}: only a constant integer, or a string without a dot, names an item"
    )


def _without_items_of_others(names: list[str]) -> list[str]:
    """Drop every name of which a prefix is listed too: the item is taken out where it is used."""
    listed = set(names)

    def inside_another(name: str) -> bool:
        return any(name[: dot.start()] in listed for dot in re.finditer(r"\.", name))

    return [name for name in names if not inside_another(name)]


def analyze_signatures(
    parameters: Sequence[Iterable[inspect.Parameter]],
    outputs: Sequence[Sequence[str] | None],
    inputs: Sequence[str],
) -> Liveness:
    """Analyze stages by their parameters and declared outputs.

    `parameters[k]` are the parameters of stage k; a parameter takes the value of its name, and
    ``*args`` and ``**kwargs`` take nothing. `outputs[k]` names the outputs of stage k, or is None
    if they are not declared: such a stage may give anything. A name means its latest producer. A
    value that an undeclared stage might replace still enters that stage if it may exist by then;
    where nobody has given it yet, it is absent at run time.

    Raises ValueError if nobody can give a required argument.
    """
    args: dict[int, list[Arg]] = {-1: list(inputs)}
    known: list[set[str]] = []  # per stage: the values sure to exist when it runs
    rank = {name: i for i, name in enumerate(inputs)}  # order of definition
    available = set(inputs)
    guessing = False
    for k, given in enumerate(outputs):
        args[k] = _resolve(k, parameters[k], available, guessing)
        available |= {arg_name(arg) for arg in args[k] if not isinstance(arg, OptionalArg)}
        known.append(set(available))
        available |= set(given or ())
        guessing = guessing or given is None
        for name in [*map(arg_name, args[k]), *(given or ())]:
            rank.setdefault(name, len(rank))

    live: list[str] = []
    liveness: list[list[str]] = []
    for k in reversed(range(len(outputs))):
        given = outputs[k]
        if given is not None:
            bypassed = [name for name in live if name not in given]
        elif None in outputs[:k]:
            bypassed = live
        else:
            bypassed = [name for name in live if name in known[k]]
        own = map(arg_name, args[k])
        live = list(dict.fromkeys([*own, *sorted(bypassed, key=rank.__getitem__)]))
        liveness.insert(0, live)
    liveness[0].sort(key=rank.__getitem__)
    return Liveness(liveness, args)


def _resolve(
    k: int, parameters: Iterable[inspect.Parameter], available: set[str], guessing: bool
) -> list[Arg]:
    args: list[Arg] = []
    for parameter in parameters:
        name, kind = parameter.name, parameter.kind
        if kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        if name not in available and not guessing:
            if required:
                raise ValueError(
                    f"stage {k} takes {name!r}, which no input and no earlier stage gives; "
                    f"available: {sorted(available)}. Add it to inputs= or to the outputs= of "
                    f"the stage that makes it"
                )
            continue
        if not required:
            if kind is parameter.POSITIONAL_ONLY:
                raise ValueError(
                    f"stage {k}: the positional-only parameter {name!r} has a default, so it "
                    f"could not be left out; drop the '/' from the signature"
                )
            args.append(OptionalArg(name, name))
        elif kind is parameter.KEYWORD_ONLY:
            args.append((name, name))
        else:
            args.append(name)
    return args
