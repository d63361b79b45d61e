"""Each rank initialises its own stage; values depend on names and the seed alone."""

import pytest
import torch
from torch import nn

from pipecodec import materialize_stage, partition_modules

from .loading_models import asks_for_addresses, batch, build, partition, same_bits, tensors_of

pytestmark = asks_for_addresses

FAMILIES = ["mixtral", "qwen3 tied", "t5"]


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_the_same_in_whatever_stages(family):
    whole = partition(family, 1)
    materialize_stage(whole, 0, seed=3)
    expected = tensors_of(whole.stages[0])
    state, held = torch.get_rng_state(), set()
    for stage in range(3):
        part = partition(family, 3)  # as another rank would
        module = materialize_stage(part, stage, seed=3)
        assert module is part.stages[stage]
        for name, tensor in tensors_of(module).items():
            assert same_bits(tensor, expected[name]), name
            held.add(name)
        assert all(p.is_meta for p in part.stages[stage - 1].parameters() if not _tied(part))
    assert held == set(expected)
    assert torch.equal(torch.get_rng_state(), state)


def _tied(part):
    return bool(part.tie_weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_distributed_as_in_the_whole_model(family):
    model, part = build(family), partition(family, 1)
    materialize_stage(part, 0, seed=3)
    for name, tensor in tensors_of(part.stages[0]).items():
        built = tensors_of(model)[name]
        assert tensor.requires_grad == built.requires_grad
        if built.unique().numel() == 1 or not isinstance(built, nn.Parameter):
            assert same_bits(tensor, built), name  # ones, zeros, and computed buffers
        else:
            tensor, deviation = tensor.detach(), float(built.detach().std())
            assert abs(float(tensor.std()) - deviation) < 0.25 * deviation, name
            assert abs(float(tensor.mean())) < 0.5 * deviation, name


def test_a_materialized_model_trains():
    part = partition("qwen3 tied")
    for stage in range(3):
        materialize_stage(part, stage, seed=3)
    from pipecodec import run_local

    run_local(part, **batch()).loss.backward()
    embedding = part.stages[0].get_parameter("model.embed_tokens.weight")
    assert embedding is part.stages[2].get_parameter("lm_head.weight")
    assert all(p.grad is not None for stage in part.stages for p in stage.parameters())


def test_the_seed_is_by_default_that_of_torch():
    values = []
    for seed in (5, 5, 6):
        part = partition("llama")
        torch.manual_seed(seed)
        torch.rand(seed)
        materialize_stage(part, 1)
        values.append(next(part.stages[1].parameters()))
    by_argument = partition("llama")
    materialize_stage(by_argument, 1, seed=5)
    assert same_bits(values[0], values[1]) and not same_bits(values[1], values[2])
    assert same_bits(values[0], next(by_argument.stages[1].parameters()))


class Block(nn.Module):
    """Plain modules, of which each can be initialised or not."""

    def __init__(self, *extra):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        if "parameter" in extra:
            self.gate = nn.Parameter(torch.zeros(4))
        if "integers" in extra:
            self.register_buffer("order", torch.arange(4))

    def forward(self, x):
        return self.norm(self.linear(x))


def blocks(*extra):
    with torch.device("meta"):
        model = nn.Sequential(Block(), Block(*extra))
    return partition_modules(list(model), model=model)


def test_plain_modules_are_initialised_by_their_own_methods():
    module = materialize_stage(blocks(), 1, seed=0)
    assert torch.equal(module.norm.weight, torch.ones(4))
    assert (
        0 < float(module.linear.weight.detach().abs().max()) <= 0.5
    )  # uniform, at most 1 / sqrt(4)
    assert not torch.equal(
        module.linear.weight, materialize_stage(blocks(), 0, seed=0).linear.weight
    )


def test_an_initialisation_of_the_models_own_comes_last():
    class Model(nn.Sequential):
        def _init_weights(self, module):
            if isinstance(module, nn.Linear):
                nn.init.constant_(module.weight, 7.0)

    with torch.device("meta"):
        model = Model(Block(), Block())
    module = materialize_stage(partition_modules(list(model), model=model), 1, seed=0)
    assert torch.equal(module.linear.weight, torch.full((4, 4), 7.0))
    assert torch.equal(module.norm.weight, torch.ones(4))


def test_tensors_that_nothing_writes_to_are_named_all_at_once():
    part = blocks("parameter", "integers")
    with pytest.raises(ValueError) as error:
        materialize_stage(part, 1, seed=0)
    assert "stage 1 cannot be initialised" in str(error.value)
    assert "gate: nothing writes to it" in str(error.value)
    assert "order: nothing writes to it" in str(error.value)
    assert all(tensor.is_meta for tensor in tensors_of(part.stages[1]).values())


def test_an_initialisation_that_fails_names_the_module():
    part = blocks()
    part.stages[1].reset_parameters = lambda: 1 / 0
    with pytest.raises(ValueError, match=r"initialising 1 \(Block\) .* ZeroDivisionError"):
        materialize_stage(part, 1, seed=0)
    assert part.stages[1].linear.weight.is_meta
