"""Descriptions of hand-made stages: inputs, outputs and shared weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipecodec.stages import partition_modules, run_local
from tests.small_stages import INPUTS, OUTPUTS, Block, Embed, Function, Head, four_stages


@pytest.fixture
def stages():
    return four_stages()


def test_what_the_partition_says(stages):
    part = partition_modules(stages, INPUTS, OUTPUTS)
    assert part.stages == stages
    assert part.input_names == INPUTS
    assert part.outputs == OUTPUTS
    assert part.tie_weights == {}
    assert part.liveness == [
        ["ids", "mask", "labels"],
        ["hidden", "bias", "labels"],
        ["hidden", "bias", "labels"],
        ["hidden", "labels"],
    ]
    assert part.stage_id_2_arg_names[-1] == INPUTS
    assert part.stage_id_2_arg_names[1] == ["hidden", ("bias", "bias")]


def test_inputs_are_stage_0s_and_what_nobody_makes():
    stages = [
        Function("ids, mask=None", None),
        Function("hidden, mask, labels", None),
        Function("hidden, scale=1.0", None),
    ]
    part = partition_modules(stages, outputs=["hidden", ["hidden"], None])
    assert part.input_names == ["ids", "mask", "labels"]


class Untyped(nn.Module):
    def forward(self, *args, **kwargs):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("stages", "inputs", "outputs", "reason"),
    [
        ([], None, None, "there are no stages"),
        ([nn.ReLU()], None, [None, None], "outputs has 2 entries for 1 stages"),
        ([nn.ReLU()], None, ["a.b"], r"outputs\[0\]: 'a\.b' is not a name"),
        ([nn.ReLU()], None, [["a", "a"]], r"outputs\[0\] names a value twice"),
        ([Untyped()], None, None, "stage 0: the forward of Untyped names no parameters"),
        ([nn.ReLU()], ["x"], None, r"stage 0 takes 'input', .* available: \['x'\]"),
        (
            [nn.ReLU(), Function("h, z", None)],
            ["input"],
            ["h", None],
            r"stage 1 takes 'z', .* available: \['h', 'input'\]",
        ),
    ],
)
def test_partitions_that_are_refused(stages, inputs, outputs, reason):
    with pytest.raises(ValueError, match=reason):
        partition_modules(stages, inputs, outputs)


def tied(stages):
    return partition_modules(stages).tie_weights


def test_one_parameter_in_two_stages(stages):
    stages[3].lm_head.weight = stages[0].wte.weight
    assert tied(stages) == {"submod_0.wte.weight": [("wte.weight", 0), ("lm_head.weight", 3)]}


def test_two_parameters_over_one_storage(stages):
    stages[3].lm_head.weight = nn.Parameter(stages[0].wte.weight.detach())
    assert list(tied(stages).values()) == [[("wte.weight", 0), ("lm_head.weight", 3)]]


def test_meta_parameters_are_told_apart(stages):
    stages = [stage.to("meta") for stage in stages]
    assert tied(stages) == {}
    stages[3].lm_head.weight = stages[0].wte.weight
    assert list(tied(stages)) == ["submod_0.wte.weight"]


def test_two_names_in_one_stage_count_once(stages):
    stages[0].again = stages[0].wte
    stages[1].bias_too = stages[1].linear.bias
    stages[2].linear.bias = stages[1].linear.bias
    assert tied(stages) == {"submod_1.bias_too": [("bias_too", 1), ("linear.bias", 2)]}


def test_parts_of_one_buffer_are_not_tied(stages):
    buffer = torch.zeros(2, 4, 4)
    for k in (0, 1):
        stages[k + 1].linear.weight = nn.Parameter(buffer[k])
    assert tied(stages) == {}


@pytest.mark.parametrize("other", [lambda w: w.t(), lambda w: w[1:]], ids=["transposed", "part"])
def test_overlapping_weights_of_two_stages_are_refused(stages, other):
    stages[2].linear.weight = nn.Parameter(other(stages[1].linear.weight.detach()))
    with pytest.raises(ValueError, match=r"\{1: 'linear.weight'\} and \{2: 'linear.weight'\}"):
        tied(stages)


def test_overlapping_weights_within_a_stage_are_its_own_matter(stages):
    stages[1].transposed = nn.Parameter(stages[1].linear.weight.detach().t())
    assert tied(stages) == {}


class HandsOn(nn.Module):
    """Wraps a module as adapters and data parallelism do."""

    def __init__(self, module, **others):
        super().__init__()
        self.base_model = module
        for name, other in others.items():
            self.add_module(name, other)

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


class Only(HandsOn):
    def __init__(self, module):
        super().__init__(module)
        del self.base_model
        self.layer = module

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: torch.compile(module, backend="eager"),
        compiled_in_place,
        nn.DataParallel,
        HandsOn,
        Only,
        lambda module: HandsOn(module, prompt_encoder=nn.Linear(2, 2)),
        lambda module: Only(HandsOn(torch.compile(module, backend="eager"))),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch.compile asks tensors for gradients, and warns
def test_a_stage_may_be_wrapped(wrap):
    """The names were those of the wrapper's forward, so none."""
    plain = partition_modules([Embed(), Block(), Head()])
    part = partition_modules([wrap(Embed()), wrap(Block()), wrap(Head())])
    assert part.input_names == plain.input_names
    assert part.liveness == plain.liveness
    assert part.stage_id_2_arg_names == plain.stage_id_2_arg_names
    ids = torch.tensor([[1, 2, 3]])
    assert run_local(part, ids, mask=ids > 1).shape == run_local(plain, ids, mask=ids > 1).shape


def test_a_wrapper_that_names_nothing_on_the_way_is_refused():
    two = HandsOn(Block())
    two.base_model = nn.ModuleList([Block(), Block()])
    with pytest.raises(ValueError, match="HandsOn names no parameters, nor does that of"):
        partition_modules([two])
