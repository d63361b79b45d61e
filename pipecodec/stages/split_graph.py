"""Makes a partition of a graph that another tool has split into stages."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from .liveness import Arg, Liveness, OptionalArg, analyze_graph
from .model_state import locate
from .partition import Partition
from .split_stage import BuiltStage, build_stage
from .split_tensors import keep_persistence, shared_parameters
from .ties import find_ties

__all__ = ["is_split_graph", "partition_graph"]


def is_split_graph(model: object) -> bool:
    """Tell whether `model` is a ``Pipe``, or a GraphModule that only calls other GraphModules.

    Such a graph holds placeholders, parameters, call_module, getitem and output, as
    ``split_module`` makes it. One that calls ordinary modules may be a traced model that nobody
    split; ``partition_graph`` takes it if its modules are stages.
    """
    if _is_pipe(model):
        return True
    if not isinstance(model, fx.GraphModule):
        return False
    nodes = list(model.graph.nodes)
    called = [model.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"]
    return (
        all(map(_may_stand, nodes))
        and bool(called)
        and all(isinstance(module, fx.GraphModule) for module in called)
    )


def partition_graph(
    graph: nn.Module, model: nn.Module | None = None, order: Sequence[str] | None = None
) -> Partition:
    """Describe the stages of a split graph, which stays as it is.

    `graph` is a ``torch.distributed.pipelining.Pipe``, or the GraphModule that
    ``torch.fx.passes.split_module`` made of a traced model or of ``ExportedProgram.module()``.
    The inputs are the graph's placeholders by name. Parameters that the graph itself holds move
    into the stages that use them, those that a stage holds but never uses are left out, and the
    copies that a ``Pipe`` made of a tied weight are one parameter again. The last stage returns the
    output of the whole graph, also where that takes values of earlier stages.

    `model` is the model that was traced: state dicts can then be converted, as far as the stages
    hold its tensors. It may also be the unsplit ``ExportedProgram.module()``, whose output
    structure the last stage then restores. `order` lists the stages' module names, first stage
    first; without it they run by number, or else in graph order.

    An exported stage holds sizes and the train or eval mode as constants. Where a tensor has
    another size, or the stage the other mode and dropout or batch norm in it, its forward raises
    ValueError.

    Raises:
        TypeError: `graph` is neither a Pipe nor a GraphModule.
        ValueError: the graph computes outside its stages, calls a stage twice or before one that
            it depends on, or `order` does not name every stage once.
    """
    split = graph.split_gm if _is_pipe(graph) else graph
    if not isinstance(split, fx.GraphModule):
        raise TypeError(
            f"a {type(graph).__name__} is no split graph; pass a Pipe of "
            f"torch.distributed.pipelining, or the GraphModule of split_module of torch.fx"
        )
    calls = _calls(split)
    targets = _order(list(calls), order)
    shared = shared_parameters(graph, model) if _is_pipe(graph) else {}
    output = split.graph.output_node().args[0]
    last = targets[-1]
    built = {
        target: build_stage(
            split,
            calls[target],
            shared.get(target, {}),
            output=output if target == last else None,
            structure=_output_structure(split, model) if target == last else None,
        )
        for target in targets
    }
    flow = _flow(split, calls, built, targets)
    stages = [built[target].module for target in targets]
    if model is not None:
        for stage in stages:
            keep_persistence(stage, model)
    return Partition(
        stages=stages,
        liveness=flow.liveness,
        stage_id_2_arg_names=flow.stage_id_2_arg_names,
        input_names=[str(name) for name in flow.stage_id_2_arg_names[-1]],
        outputs=[None] * len(stages),
        tie_weights=find_ties([dict(s.named_parameters(remove_duplicate=False)) for s in stages]),
        model_state=None if model is None else locate(stages, model),
    )


def _is_pipe(graph: object) -> Any:
    # A Pipe exists only where its package was imported, and importing that takes a second.
    pipelining = sys.modules.get("torch.distributed.pipelining")
    return pipelining is not None and isinstance(graph, pipelining.Pipe)


def _may_stand(node: fx.Node) -> bool:
    return node.op in ("placeholder", "get_attr", "call_module", "output") or (
        node.op == "call_function" and node.target is operator.getitem
    )


def _calls(split: fx.GraphModule) -> dict[str, fx.Node]:
    calls: dict[str, fx.Node] = {}
    for node in split.graph.nodes:
        if not _may_stand(node):
            raise ValueError(
                f"the split graph may hold placeholders, parameters, stages, getitem and output "
                f"only; move {node.format_node()} into a stage"
            )
        if node.op == "call_module":
            if str(node.target) in calls:
                raise ValueError(f"stage {node.target} is called twice; split it into two stages")
            calls[str(node.target)] = node
    if not calls:
        raise ValueError("the graph calls no stage; split the model first")
    return calls


def _order(targets: list[str], order: Sequence[str] | None) -> list[str]:
    """Return the stages' names in order; by number where all are one name with numbers."""
    if order is not None:
        if sorted(order) != sorted(targets):
            raise ValueError(
                f"order must name every stage once: {sorted(targets)}, not {list(order)}"
            )
        return list(order)
    numbered = [re.fullmatch(r"(.*?)(\d+)", target) for target in targets]
    if len({found and found[1] for found in numbered}) > 1 or None in numbered:
        return targets
    return sorted(targets, key=lambda target: int(re.findall(r"\d+$", target)[0]))


def _output_structure(split: fx.GraphModule, model: nn.Module | None) -> Any:
    """Return the structure of the output that split_module drops, or None."""
    for graph in (split, model):
        if isinstance(graph, fx.GraphModule):
            info = getattr(graph.graph._codegen, "pytree_info", None)
            if info is not None and info.out_spec is not None:
                return info.out_spec
    return None


def _flow(
    split: fx.GraphModule,
    calls: dict[str, fx.Node],
    built: dict[str, BuiltStage],
    targets: list[str],
) -> Liveness:
    """Analyze a graph in which every stage takes the values that it uses, and nothing else."""
    graph = fx.Graph()
    found: dict[fx.Node, fx.Node] = {}
    defaults: set[str] = set()
    for node in split.graph.nodes:
        if node.op == "placeholder" and str(node.target).isidentifier():
            found[node] = graph.placeholder(str(node.target))
            defaults |= {str(node.target)} if node.args else set()

    def value(node: fx.Node, k: int) -> fx.Node:
        if node not in found:
            if node.target is not operator.getitem:
                raise ValueError(_unavailable(node, targets, k))
            found[node] = graph.call_function(
                operator.getitem,
                (value(node.args[0], k), node.args[1]),  # type: ignore[arg-type]
            )
        return found[node]

    for k, target in enumerate(targets):
        stage = built[target]
        found[calls[target]] = graph.call_module(
            target,
            tuple(value(node, k) for node in stage.required),
            {name: value(node, k) for name, node in stage.optional.items()},
        )
    graph.output(found[calls[targets[-1]]])
    stages = {target: stage.module for target, stage in built.items()}
    flow = analyze_graph(fx.GraphModule(stages, graph), targets)

    def optional(arg: Arg) -> Arg:
        given = not isinstance(arg, str) and arg[1] in defaults
        return OptionalArg(*arg) if given else arg

    args = {k: list(map(optional, taken)) for k, taken in flow.stage_id_2_arg_names.items()}
    return Liveness(flow.liveness, args)


def _unavailable(node: fx.Node, targets: list[str], k: int) -> str:
    where = f"stage {k} ({targets[k]})"
    if node.op == "call_module":
        return (
            f"{where} takes the result of {node.target}, which is stage "
            f"{targets.index(str(node.target))}; pass order= with every stage after those it "
            f"depends on"
        )
    return f"{where} takes {node.target!r}, which is not one value; name the inputs of the model"
