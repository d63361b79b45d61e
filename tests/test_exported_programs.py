"""Programs of torch.export that were split, as partitions: sizes that vary, modes, numbers."""

from __future__ import annotations

import pytest
import torch
from torch.fx.passes.split_module import split_module

from pipecodec.stages import run_local
from pipecodec.stages.split_graph import is_split_graph, partition_graph

from .split_graphs import (
    MODELS,
    WARNINGS,
    Skips,
    equal,
    gpt2,
    gpt2_batch,
    leaves,
    pipe_of,
    run,
    same,
)

pytestmark = WARNINGS


def exported(model, batch, cuts, **options):
    """Split an exported program by hand: each stage begins at a module of `cuts`."""
    program = torch.export.export(model, (), batch, strict=False, **options).module(
        check_guards=False
    )
    stages, missing, stage = {}, list(cuts), 0
    for node in program.graph.nodes:
        names = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
        if missing and any(f"{name}.".startswith(f"{missing[0]}.") for name in names):
            del missing[0]
            stage += 1
        stages[node.name] = stage
    return program, split_module(program, None, lambda node: stages[node.name])


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_split_export_with_sizes_that_vary(name):
    make, make_batch, cuts = MODELS[name]
    model, batch = make(), make_batch()
    dynamic = {key: {0: torch.export.Dim.AUTO} for key in batch}
    program, split = exported(model, batch, cuts, dynamic_shapes=dynamic)
    assert is_split_graph(split)
    assert not is_split_graph(program)
    part = partition_graph(split, program)
    more = {key: torch.cat([value, value[:1]]) for key, value in batch.items()}
    for each in batch, more:
        expected = run(model, model, **each)
        assert same(run(lambda **kwargs: run_local(part, **kwargs), model, **each), expected)
    assert type(run_local(part, **batch)) is type(model(**batch))  # a ModelOutput


def test_numbers_that_cross():
    model = Skips()
    program, split = exported(
        model,
        {"x": torch.rand(3, 4), "unused": torch.rand(1)},
        ["b", "c"],
        dynamic_shapes={"x": {0: torch.export.Dim.AUTO}, "unused": None},
    )
    part = partition_graph(split, program)
    x = torch.rand(7, 4)
    found, expected = run_local(part, x, torch.rand(1)), model(x, None)
    assert found["size"] == 7
    assert equal(leaves(found), leaves(expected))


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
def test_sizes_of_an_exported_stage_are_checked():
    model, batch = gpt2(), gpt2_batch()
    part = partition_graph(pipe_of(model, batch, MODELS["gpt2"][2]), model)
    with pytest.raises(ValueError, match=r"'.*' has the shape \[3, 8\], but .* for \[2, 8\]"):
        run_local(part, **gpt2_batch(3))


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
@pytest.mark.parametrize("training", [True, False])
def test_an_exported_stage_keeps_its_mode(training):
    model, batch = gpt2(resid_pdrop=0.5).train(training), gpt2_batch()
    expected = run(model, model, **batch)
    part = partition_graph(pipe_of(model, batch, MODELS["gpt2"][2]), model)
    assert same(run(lambda **kwargs: run_local(part, **kwargs), model, **batch), expected)
    part.stages[1].train(not training)
    with pytest.raises(ValueError, match="exported in .* mode, which aten.dropout"):
        run_local(part, **batch)


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
def test_stages_without_dropout_serve_both_modes():
    model, batch = gpt2().train(), gpt2_batch()
    part = partition_graph(pipe_of(model, batch, MODELS["gpt2"][2]), model)
    for stage in part.stages:
        stage.eval()
    assert equal(leaves(run_local(part, **batch)), leaves(model.eval()(**batch)))
