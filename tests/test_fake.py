"""A model without memory runs on real inputs: branches on inputs are the real model's."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import pipecodec
from pipecodec.errors import PartitionError
from pipecodec.no_memory import has_no_memory
from pipecodec.tape.fake import run_fake
from pipecodec.tape.place import is_inner

from .breaking_models.case import Base


class Model(nn.Module):
    """Glue with all that needs values, and a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf = nn.Linear(4, 4)
        self.twin = nn.Linear(4, 4)
        self.twin.weight = self.leaf.weight
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x, mask):
        self.seen = [bool(mask.all()), bool(torch.rand([]) < 2)]
        chosen = self.leaf(x)[mask] + self.table
        total = torch.zeros(4)
        total.index_add_(0, torch.zeros(len(chosen), dtype=torch.long), chosen)
        return self.twin(total), mask.sum()


def on_meta() -> Model:
    with torch.device("meta"):
        return Model()


@pytest.mark.parametrize("rows", [2, 3])
def test_values_of_inputs_are_real_and_those_of_parameters_are_fake(rows):
    model = on_meta()
    mask = torch.arange(3) < rows
    out, count = run_fake(model, lambda _: model(torch.ones(3, 4), mask))
    assert model.seen == [rows == 3, True]
    assert isinstance(out, FakeTensor)
    assert (out.shape, out.device.type, out.requires_grad) == ((4,), "cpu", True)
    assert type(count) is torch.Tensor and int(count) == rows


def test_the_model_is_on_meta_again_with_its_own_tensors():
    model = on_meta()
    before = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    buffer, state = model.table, torch.get_rng_state()

    def observe(run):
        assert isinstance(model.leaf.weight, FakeTensor)
        assert isinstance(model.leaf.weight, nn.Parameter)
        assert model.leaf.weight is model.twin.weight
        torch.rand(3)

    run_fake(model, observe)
    after = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    assert after == before
    assert model.table is buffer
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fake_model_keeps_its_mode():
    with FakeTensorMode() as mode:
        model = Model()
    out, _ = run_fake(model, lambda _: model(torch.ones(3, 4), torch.tensor([True, False, True])))
    assert out.fake_mode is mode
    assert not mode.allow_non_fake_inputs


def test_inputs_on_meta_are_fake_while_the_model_runs():
    model = on_meta()
    real = torch.ones(2)

    def observe(run):
        assert run.input(real) is real
        return model.leaf(run.input(torch.ones(3, 4, device="meta")))

    assert run_fake(model, observe).shape == (3, 4)


def test_in_a_leaf_new_tensors_are_fake_and_values_of_inputs_stay_real():
    model, given = on_meta(), torch.tensor([2, 3])

    def observe(run):
        with run.leaf():
            return torch.zeros(2), given * given, (given + 1).tolist()

    new, product, numbers = run_fake(model, observe)
    assert isinstance(new, FakeTensor)
    assert type(product) is torch.Tensor and product.tolist() == [4, 9] and numbers == [3, 4]
    assert type(run_fake(model, lambda _: torch.zeros(2))) is torch.Tensor


def test_grouped_products_have_a_shape_in_float32():
    model = on_meta()
    product = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm

    def observe(run):
        weight = model.leaf.weight.expand(3, 4, 4)
        return product(torch.ones(6, 4), weight, offs=torch.tensor([2, 4, 6], dtype=torch.int32))

    out = run_fake(model, observe)
    assert (out.shape, out.dtype, out.requires_grad) == ((6, 4), torch.float32, True)


def test_torch_logs_nothing_where_a_batch_does_not_fit(caplog):
    with pytest.raises(RuntimeError, match="reduction dim"):
        run_fake(on_meta(), lambda run: run._mode.from_tensor(torch.ones(2, 3)) @ torch.ones(4, 2))
    assert not caplog.records


def test_a_branch_on_a_value_of_a_parameter_is_torchs_error():
    model = on_meta()
    with pytest.raises(PartitionError, match=r"test_fake.py:\d+: the model asks for a value"):
        run_fake(model, lambda _: bool(model.leaf(torch.ones(4)).sum() > 0))
    assert model.leaf.weight.is_meta


class Asks(Base):
    def _glue(self, x):
        return x if x.sum() > 0 else -x


class LeafAsks(Base):
    class Layer(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y if y.sum().item() > 0 else -y

    layer = Layer


@pytest.mark.parametrize("model", [Asks, LeafAsks])
def test_partition_names_the_line_of_a_model_on_meta(model):
    with torch.device("meta"):
        model = model()
    with pytest.raises(
        PartitionError, match=r"^tests/test_fake.py:\d+: the model asks for a value"
    ):
        pipecodec.partition(model, (torch.ones(2, 8),), n_stages=2)


def test_a_folder_named_torch_is_a_place_of_the_model():
    assert not is_inner("/home/me/torch/pipecodec/model.py")
    assert is_inner(torch.nn.modules.linear.__file__) and is_inner(copy.__file__)
    assert is_inner(pipecodec.cutting.untouched.__file__)


def test_the_library_of_python_is_no_place_of_the_model():
    class Copies(Base):
        def _glue(self, x):
            return copy.deepcopy(x.detach()) + x

    part = pipecodec.partition(Copies(), (torch.ones(2, 8),), n_stages=2)
    assert part.cut is not None
    assert all("test_fake.py:" in place for place in part.cut.makers.values()), part.cut.makers


def test_writing_an_unknown_value_into_an_input_is_an_error_with_its_line():
    model = on_meta()
    x = torch.ones(4)
    with pytest.raises(
        PartitionError, match=r"test_fake.py:\d+: aten.copy_.default writes a value"
    ):
        run_fake(model, lambda _: x.copy_(model.leaf(torch.ones(4))))


def test_a_model_with_memory_runs_as_it_is():
    model = Model()
    assert not has_no_memory(model) and has_no_memory(on_meta())
    assert run_fake(model, lambda run: run) is None
