"""Hand-made stages: description, ties, and a run in one process."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipecodec.codec import Codec
from pipecodec.stages import partition, partition_modules, run_local


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(7, 4)

    def forward(self, ids, mask=None):
        hidden = self.wte(ids)
        return {"hidden": hidden, "bias": None if mask is None else mask.float()}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden, bias=None):
        hidden = hidden + self.linear(hidden).tanh()
        return hidden if bias is None else hidden * bias.unsqueeze(-1)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.lm_head = nn.Linear(4, 7, bias=False)

    def forward(self, hidden, labels=None):
        logits = self.lm_head(hidden)
        if labels is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits


class Model(nn.Module):
    """What the stages Embed, Block, Block, Head compute together."""

    def __init__(self, stages):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, ids, mask=None, labels=None):
        embed, first, second, head = self.stages
        both = embed(ids, mask)
        hidden = second(first(both["hidden"], both["bias"]), both["bias"])
        return head(hidden, labels)


OUTPUTS = [["hidden", "bias"], "hidden", "hidden", None]
INPUTS = ["ids", "mask", "labels"]


@pytest.fixture
def stages():
    torch.manual_seed(0)
    return [Embed(), Block(), Block(), Head()]


@pytest.fixture
def batch():
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    return {"ids": ids, "mask": ids > 1, "labels": ids.roll(-1, 1)}


def gradients(model):
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return grads


def same_gradients(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("outputs", [OUTPUTS, None])
def test_outputs_and_gradients_equal_those_of_the_whole_model(stages, batch, outputs):
    part = partition_modules(stages, INPUTS, outputs)
    model = Model(stages)
    loss, logits = model(**batch)
    loss.backward()
    expected = gradients(model)
    split_loss, split_logits = run_local(part, batch["ids"], labels=batch["labels"],
                                         mask=batch["mask"])  # fmt: skip
    split_loss.backward()
    assert torch.equal(split_loss, loss)
    assert torch.equal(split_logits, logits)
    assert same_gradients(gradients(model), expected)


@pytest.mark.parametrize("outputs", [OUTPUTS, None])
def test_optional_inputs_may_be_left_out(stages, batch, outputs):
    part = partition_modules(stages, INPUTS, outputs)
    assert torch.equal(run_local(part, batch["ids"]), Model(stages)(batch["ids"]))


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


def test_every_boundary_is_packed_and_unpacked(stages, batch, monkeypatch):
    seen = []

    class Recorder:
        def __init__(self, name):
            self.name, self.codec = name, Codec(name=name)

        def pack(self, values):
            seen.append((self.name, len(values)))
            return self.codec.pack(values)

        def unpack(self, tensors):
            assert tensors[-1].dtype is torch.uint8
            return self.codec.unpack(tensors)

    monkeypatch.setattr(partition, "Codec", Recorder)
    run_local(partition_modules(stages, INPUTS, OUTPUTS), **batch)
    assert seen == [("boundary 0→1", 3), ("boundary 1→2", 3), ("boundary 2→3", 2)]


def test_the_same_tensor_objects_arrive():
    sent = [torch.ones(2, requires_grad=True), torch.zeros(3)]
    stages = [
        Function("x", lambda v: ("a", {"k": sent})),
        Function("a, b", lambda v: v["b"]["k"]),
    ]
    received = run_local(partition_modules(stages), None)
    assert all(x is y for x, y in zip(received, sent, strict=True))


def test_one_stage_has_no_boundary(batch):
    embed = Embed()
    assert torch.equal(run_local(partition_modules([embed]), batch["ids"])["hidden"],
                       embed(batch["ids"])["hidden"])  # fmt: skip


class Function(nn.Module):
    """A stage whose forward has the given parameters."""

    def __init__(self, signature, body):
        super().__init__()
        namespace = {"body": body}
        exec(f"def forward({signature}):\n    return body(locals())", namespace)
        self.forward = namespace["forward"]


def test_inputs_are_stage_0s_and_what_nobody_makes():
    stages = [
        Function("ids, mask=None", None),
        Function("hidden, mask, labels", None),
        Function("hidden, scale=1.0", None),
    ]
    part = partition_modules(stages, outputs=["hidden", ["hidden"], None])
    assert part.input_names == ["ids", "mask", "labels"]


def test_inputs_are_not_guessed_behind_an_undeclared_stage():
    stages = [Function("x", None), Function("hidden, labels", None)]
    part = partition_modules(stages)
    assert part.input_names == ["x"]
    with pytest.raises(TypeError, match=r"'labels' is not an input .* name it in inputs="):
        run_local(part, 1, labels=2)


def test_undeclared_stage_that_does_not_give_what_is_needed():
    stages = [Function("x", lambda v: {"h": v["x"], "mash": 0}), Function("h, mask", None)]
    with pytest.raises(ValueError, match="stage 0 has to pass on 'mask', but there is only x, "):
        run_local(partition_modules(stages), 1)


def test_what_a_mapping_gives_goes_round_the_next_stage():
    stages = [
        Function("x", lambda v: {"h": v["x"], "mask": 3}),
        Function("h", lambda v: {"h": v["h"] + 1}),
        Function("h, mask", lambda v: (v["h"], v["mask"])),
    ]
    assert run_local(partition_modules(stages), 1) == (2, 3)


def test_required_input_that_is_not_given():
    part = partition_modules([Function("x, y", None)])
    with pytest.raises(ValueError, match="stage 0 takes 'y', which it did not receive; there is x"):
        run_local(part, 1)


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
        ([nn.ReLU()], ["input", 3], None, "inputs: 3 is not a name"),
        ([Untyped()], None, None, "stage 0: the forward of Untyped names no parameters"),
        ([torch.relu], None, None, "stage 0 is a builtin_function_or_method"),
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


# Chains of stages against a plain dict of names ---------------------------------------------


def run_plain(chain, inputs):
    """Run `chain` with one dict for all values that were ever named."""
    env = dict(inputs)
    for k, (stage, parameters, declared) in enumerate(chain):
        output = stage(**{name: env[name] for name in parameters if name in env})
        if isinstance(declared, str):
            env[declared] = output
        elif declared is not None:
            several = output if isinstance(output, tuple) else (output,)
            env.update(output if isinstance(output, dict) else zip(declared, several, strict=True))
        elif isinstance(output, dict):
            env.update(output)
        elif k + 1 < len(chain):
            several = output if isinstance(output, tuple) else (output,)
            env.update(zip(chain[k + 1][1], several, strict=False))
    return output


NAMES = ["a", "b", "c", "d", "e"]
some_names = st.lists(st.sampled_from(NAMES), unique=True, max_size=3)


def make_stage(k, required, optional, shape, given):
    """Return a stage whose every output is a number that no other computation gives."""
    parameters = [*required, *optional]

    def body(values):
        total = sum((i + 2) * v for i, v in enumerate(values[name] for name in parameters))
        outputs = [torch.tensor(1000.0 * (k + 1) + 100 * i) + total / 7 for i in range(len(given))]
        if shape == "dict":
            return dict(zip(given, outputs, strict=True))
        return outputs[0] if shape == "one" else tuple(outputs)

    signature = ", ".join([*required, *(f"{name}=-1.0" for name in optional)])
    return Function(signature, body), parameters


@st.composite
def chains(draw):
    """Draw stages whose required arguments exist, by the rule for undeclared stages."""
    inputs = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3))
    sure = set(inputs)  # what surely exists
    fresh = set()  # what undeclared stages gave besides
    bound = 0  # how many leading parameters the stage before binds
    chain = []
    n_stages = draw(st.integers(1, 5))
    for k in range(n_stages):
        required = draw(some_names.filter(lambda names: len(names) >= bound))  # noqa: B023
        kept = [name for i, name in enumerate(required) if i < bound or name in sure | fresh]
        required = kept or [min(sure)]
        fresh |= set(required[:bound])
        optional = [name for name in draw(some_names) if name not in required]
        sure |= set(required)
        shape = draw(st.sampled_from(["one", "tuple", "dict"]))
        given = draw(some_names.filter(bool))
        given = given[:1] if shape == "one" else given
        declared = draw(st.booleans())
        bound = 0
        if declared:
            sure |= set(given)
        else:
            fresh |= set(given) if shape == "dict" else set()
            bound = 0 if shape == "dict" else len(given)
        stage, parameters = make_stage(k, required, optional, shape, given)
        name_it = given[0] if shape == "one" and draw(st.booleans()) else given
        chain.append((stage, parameters, name_it if declared else None))
    return inputs, chain


@settings(deadline=None, max_examples=300)
@given(chains())
def test_chains_equal_a_run_with_a_plain_dict(drawn):
    inputs, chain = drawn
    part = partition_modules([stage for stage, _, _ in chain], inputs, [d for _, _, d in chain])
    values = {name: torch.tensor(float(i + 1)) for i, name in enumerate(inputs)}
    expected = run_plain(chain, values)
    found = run_local(part, **values)
    assert type(found) is type(expected)
    as_dict = expected if isinstance(expected, dict) else {"": expected}
    found_dict = found if isinstance(found, dict) else {"": found}
    assert as_dict.keys() == found_dict.keys()
    for key, value in as_dict.items():
        for x, y in zip(*(v if isinstance(v, tuple) else (v,) for v in (value, found_dict[key])),
                        strict=True):  # fmt: skip
            assert torch.equal(x, y)
    for k, names in enumerate(part.liveness):
        taken_from_here_on = {name for _, parameters, _ in chain[k:] for name in parameters}
        assert set(names) <= taken_from_here_on
        assert len(set(names)) == len(names)


# Tied weights -------------------------------------------------------------------------------


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
