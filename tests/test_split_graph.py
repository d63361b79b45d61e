"""Graphs that other tools split, as partitions: outputs, gradients, ties and state dicts."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest
import torch
import transformers
from torch import fx, nn
from torch.distributed.pipelining import SplitPoint, pipeline
from torch.fx.passes.split_module import split_module
from torch.utils import _pytree as pytree

from pipecodec.stages import run_local
from pipecodec.stages.split_graph import is_split_graph, partition_graph

from .simdev import TORCH

pytestmark = [
    # torch's own, when it copies an exported program
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # torch's own pipeline(), in 2.9
    pytest.mark.filterwarnings("ignore:.*export_for_training.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:While exporting, we found certain side effects"),
]


def gpt2(**options):
    config = transformers.GPT2Config(
        n_layer=3, n_embd=16, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0,
        eos_token_id=0, use_cache=False, loss_type="ForCausalLM",
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **options},
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def gpt2_batch(rows=2):
    ids = torch.arange(rows * 8).reshape(rows, 8) % 50
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.flip(1)}


def bert():
    config = transformers.BertConfig(
        num_hidden_layers=3, hidden_size=16, num_attention_heads=2, intermediate_size=32,
        vocab_size=50, max_position_embeddings=16, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, problem_type="single_label_classification",
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def bert_batch():
    return {**gpt2_batch(), "labels": torch.tensor([0, 1])}


def t5():
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2,
        vocab_size=50, use_cache=False, decoder_start_token_id=0, pad_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config)


def t5_batch():
    batch = gpt2_batch()
    decoder_input_ids = batch.pop("labels")[:, :6].contiguous()
    return {**batch, "decoder_input_ids": decoder_input_ids}


MODELS = {
    "gpt2": (gpt2, gpt2_batch, ["transformer.h.1", "transformer.h.2"]),
    "bert": (bert, bert_batch, ["bert.encoder.layer.1", "bert.encoder.layer.2"]),
    "t5": (t5, t5_batch, ["decoder.block.0", "decoder.block.1"]),
}


def pipe_of(model, batch, cuts):
    return pipeline(model, (), batch, dict.fromkeys(cuts, SplitPoint.BEGINNING))


def leaves(value):
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def run(function, model, *args, **kwargs):
    """Return the output's tensors and all gradients of the model's parameters."""
    torch.manual_seed(1)
    output = leaves(function(*args, **kwargs))
    sum(leaf.float().square().mean() for leaf in output if leaf.requires_grad).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return output, gradients


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def same(found, expected):
    return (
        equal(found[0], expected[0])
        and [g is None for g in found[1].values()] == [g is None for g in expected[1].values()]
        and equal(*([g for g in each[1].values() if g is not None] for each in (found, expected)))
    )


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
@pytest.mark.parametrize("name", MODELS)
def test_pipe(name):
    make, make_batch, cuts = MODELS[name]
    model, batch = make(), make_batch()
    expected = run(model, model, **batch)
    pipe = pipe_of(model, batch, cuts)
    assert is_split_graph(pipe)
    part = partition_graph(pipe, model)
    assert len(part.stages) == 3
    assert part.input_names == list(batch)
    found = run(lambda **kwargs: run_local(part, **kwargs), model, **batch)
    assert same(found, expected)
    assert part.state_dict_to_model([stage.state_dict() for stage in part.stages]).keys() == (
        model.state_dict().keys()
    )
    names = {key for stage in part.stages for key in stage.state_dict()}
    assert names <= model.state_dict().keys()


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_pipe_without_its_model_has_one_parameter_for_each_weight(name):
    make, make_batch, cuts = MODELS[name]
    model, batch = make(), make_batch()
    expected = run(model, model, **batch)[1]
    part = partition_graph(pipe_of(model, batch, cuts))
    sum(
        leaf.float().square().mean() for leaf in leaves(run_local(part, **batch))
        if leaf.requires_grad
    ).backward()  # fmt: skip
    found = [{p: p.grad for p in stage.parameters()} for stage in part.stages]
    everything = {p: grad for each in found for p, grad in each.items()}
    assert len(everything) == len(expected)
    (tied,) = part.tie_weights.values()
    assert [stage for _, stage in tied] == [0, 2]
    paths, gradients = [path for path, _ in tied], list(expected.values())
    weight = part.stages[0].get_parameter(paths[0])
    assert weight is part.stages[2].get_parameter(paths[1])
    assert torch.equal(weight.grad, gradients[0])
    model.zero_grad()


@pytest.mark.slow  # torch 2.9 starts a process in pipeline()
def test_a_pipe_stays_as_it_is():
    model, batch = gpt2(), gpt2_batch()
    pipe = pipe_of(model, batch, MODELS["gpt2"][2])
    before = {key: id(value) for key, value in pipe.state_dict(keep_vars=True).items()}
    expected = leaves(pipe(**batch))
    part = partition_graph(pipe, model)
    assert {key: id(value) for key, value in pipe.state_dict(keep_vars=True).items()} == before
    assert equal(leaves(pipe(**batch)), expected)
    if TORCH >= (2, 13):  # stage 0 of the pipe holds a head that it never uses
        assert "lm_head.weight" in pipe.get_stage_module(0).state_dict()
    assert "lm_head.weight" not in part.stages[0].state_dict()
    assert sum("wte" in key for key in part.stages[0].state_dict()) == 1


class Skips(nn.Module):
    """Skips over stages, an output that takes values of early stages, a weight of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("shift", torch.rand(4), persistent=False)

    def forward(self, x, unused, mask=None, factor=2):
        rows = x.shape[0]
        early = self.a(x) * self.scale
        pair = (early.tanh(), early.sin())
        middle = self.b(pair[0]) + self.shift
        late = self.c(middle) * self.scale * factor + pair[1]
        late = late.reshape(rows, 4)
        return {"late": [late, early], "same": late, "size": rows, "mask": mask, "number": 3}


STAGE_OF = {"getattr_1": 0, "getitem": 0, "a": 0, "b": 1, "add": 1}


def split_skips(model, stage_of=STAGE_OF, **options):
    traced = fx.symbolic_trace(model)
    stages = {}
    latest = 0
    for node in traced.graph.nodes:
        latest = max(latest, {"b": 1, "c": 2}.get(node.name, 0))
        stages[node.name] = stage_of.get(node.name, latest)
    return split_module(traced, None, lambda node: stages[node.name], **options)


@pytest.mark.parametrize("keep_original_order", [False, True])
def test_split_module(keep_original_order):
    model = Skips()
    x, mask = torch.rand(3, 4), torch.ones(2)
    expected = run(model, model, x, 1, mask)
    split = split_skips(model, keep_original_order=keep_original_order)
    assert is_split_graph(split)
    part = partition_graph(split, model)
    assert part.input_names == ["x", "unused", "mask", "factor"]
    assert part.liveness[0] == ["x", "mask", "factor"]  # nobody takes "unused"
    found = run(lambda *args: run_local(part, *args), model, x, 1, mask)
    assert same(found, expected)
    output = run_local(part, x, 1)
    assert list(output) == ["late", "same", "size", "mask", "number"]
    assert (output["size"], output["mask"], output["number"]) == (3, None, 3)
    assert output["late"][0] is output["same"]
    assert torch.equal(run_local(part, x, 1, factor=5)["same"], model(x, 1, factor=5)["same"])
    assert [sorted(p) for p in part.tie_weights.values()] == [[("scale", 0), ("scale", 2)]]
    states = [stage.state_dict() for stage in part.stages]
    assert "shift" not in states[1]
    assert equal(
        *(list(s.values()) for s in (part.state_dict_to_model(states), model.state_dict()))
    )


def test_stages_that_come_out_of_order():
    class TwoTowers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, y):
            left = self.a(x)
            right = self.b(y)
            return self.c(left + right), left

    model = TwoTowers()
    stage_of = {"a": 0, "b": 1}
    split = split_module(fx.symbolic_trace(model), None, lambda node: stage_of.get(node.name, 2))
    called = [node.target for node in split.graph.nodes if node.op == "call_module"]
    assert called == ["submod_1", "submod_0", "submod_2"]
    part = partition_graph(split, model)
    assert part.liveness == [["x", "y"], ["y", "submod_0"], ["submod_0", "submod_1"]]
    batch = torch.rand(3, 2), torch.rand(3, 2)
    expected = run(model, model, *batch)
    assert same(run(lambda *args: run_local(part, *args), model, *batch), expected)


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


def test_stages_that_are_modules_and_arguments_that_are_structures():
    class Add(nn.Module):
        def forward(self, items, *, factor, by=None):
            return items["left"] * factor + items["right"][0], by

    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    a = graph.call_module("first", ({"left": x, "right": [y]},), {"factor": 2})
    b = graph.call_module("second", ({"left": x, "right": [x]},), {"factor": 3, "by": y})
    item = [graph.call_function(operator.getitem, (value, 0)) for value in (a, b)]
    graph.output((item[1], {"first": item[0], "y": y}))
    split = fx.GraphModule({"first": Add(), "second": Add()}, graph)
    part = partition_graph(split, order=["first", "second"])
    assert part.liveness == [["x", "y"], ["x", "y", "submod_0.0"]]
    one, two = torch.ones(2), torch.ones(2) * 7
    assert str(run_local(part, one, two)) == str(split(one, two))


def test_values_and_parameters_that_a_stage_never_uses():
    """An ignored argument does not cross; a nested graph's spare weight is gone."""
    inner, outer, top = fx.Graph(), fx.Graph(), fx.Graph()
    inner.output(inner.call_module("used", (inner.placeholder("x"),)))
    nested = fx.GraphModule({"used": nn.Linear(2, 2)}, inner)
    nested.spare = nn.Linear(2, 2)
    nested.register_buffer("noise", torch.ones(2))
    x, _ = outer.placeholder("x"), outer.placeholder("ignored")
    outer.output(outer.call_module("nested", (x,)))
    stage = fx.GraphModule({"nested": nested}, outer)
    x, y = top.placeholder("x"), top.placeholder("y")
    first = top.call_module("submod_0", (x, y))
    top.output(top.call_module("submod_1", (first, y)))
    part = partition_graph(fx.GraphModule({"submod_0": stage, "submod_1": stage}, top))
    assert part.liveness == [["x"], ["submod_0"]]
    assert sorted(part.stages[0].state_dict()) == ["nested.used.bias", "nested.used.weight"]
    assert "nested.spare.weight" in stage.state_dict()
    assert equal([run_local(part, torch.ones(2), 0)], [stage(stage(torch.ones(2), 0), 0)])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_partition_can_be_copied(copied):
    model = Skips()
    part = copied(partition_graph(split_skips(model), model))
    x = torch.rand(3, 4)
    assert equal(leaves(run_local(part, x, 1)), leaves(model(x, 1)))


def graph_that(change):
    graph = fx.Graph()
    x = graph.placeholder("x")
    a = graph.call_module("submod_0", (x,))
    result = change(graph, a)
    graph.output(result)
    return fx.GraphModule({"submod_0": nn.Identity(), "submod_1": nn.Identity()}, graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph, a: graph.call_function(torch.add, (a, 1)), r"move .*add.* into a stage"),
        (lambda graph, a: graph.call_module("submod_0", (a,)), "submod_0 is called twice"),
    ],
)
def test_graphs_that_are_refused(change, message):
    split = graph_that(change)
    with pytest.raises(ValueError, match=message):
        partition_graph(split)


def test_an_order_against_the_flow_is_refused():
    split = graph_that(lambda graph, a: graph.call_module("submod_1", (a,)))
    assert len(partition_graph(split).stages) == 2
    message = r"stage 0 \(submod_1\) takes the result of submod_0, which is stage 1"
    with pytest.raises(ValueError, match=message):
        partition_graph(split, order=["submod_1", "submod_0"])
    with pytest.raises(ValueError, match="order must name every stage once"):
        partition_graph(split, order=["submod_0"])


def test_other_modules_are_refused():
    assert not is_split_graph(nn.Linear(2, 2))
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert not is_split_graph(fx.symbolic_trace(layers))  # calls modules, but nobody split it
    with pytest.raises(TypeError, match="a Linear is no split graph"):
        partition_graph(nn.Linear(2, 2))
