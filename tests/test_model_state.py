"""State dicts of a model and of the stages it was cut into, in one process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec import Partition, partition_modules

WIDTH, VOCABULARY = 4, 5


class Noted(nn.Linear):
    """A layer with a buffer, one that is not in the state dict, and a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.note: Any = "made"

    def get_extra_state(self) -> Any:
        return {"note": self.note}

    def set_extra_state(self, state: Any) -> None:
        self.note = state["note"]


class Model(nn.Module):
    """The head is the embedding, and one layer has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Noted(), nn.BatchNorm1d(WIDTH), Noted()])
        self.again = self.layers[1]
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.again(self.layers[1](self.layers[0](self.embed(ids))))
        logits: Tensor = self.head(self.layers[2](hidden))
        return logits


class First(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.words, self.layer = model.embed, model.layers[0]

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.layer(self.words(ids))
        return out


class Last(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.norm, self.layer, self.head = model.again, model.layers[2], model.head
        self.table = model.head.weight

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.norm(self.norm(hidden))))
        return logits


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def part(model: Model) -> Partition:
    return partition_modules([First(model), Last(model)], model=model)


def states_of(part: Partition) -> list[dict[str, Any]]:
    return [stage.state_dict() for stage in part.stages]


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        assert torch.equal(got[key], value) if isinstance(value, Tensor) else got[key] == value


def test_stages_make_up_the_model(model: Model, part: Partition) -> None:
    exported = part.state_dict_to_model(states_of(part))
    assert_same(exported, model.state_dict())
    assert exported["embed.weight"] is exported["head.weight"]
    other = Model()
    other.load_state_dict(exported)
    assert_same(other.state_dict(), model.state_dict())


def test_stages_take_what_the_model_has(model: Model, part: Partition) -> None:
    other = Model()
    other.layers[0].note, other.layers[2].note = "first", "last"
    other.layers[0].steps += 1
    for stage, state in zip(
        part.stages, part.state_dict_from_model(other.state_dict()), strict=True
    ):
        stage.load_state_dict(state)
    assert_same(model.state_dict(), other.state_dict())
    assert [model.layers[0].note, model.layers[2].note] == ["first", "last"]


def test_places_are_those_at_the_time_of_partition(model: Model, part: Partition) -> None:
    wanted = model.state_dict()
    part.stages[:] = [copy.deepcopy(stage).double() for stage in part.stages]
    exported = part.state_dict_to_model(states_of(part))
    assert exported["embed.weight"].dtype == torch.float64
    assert_same({k: v for k, v in exported.items() if "extra" not in k},
                {k: v.double() if v.is_floating_point() else v
                 for k, v in wanted.items() if "extra" not in k})  # fmt: skip


def test_meta_tensors_are_told_apart(model: Model) -> None:
    model.to("meta")
    model.head.weight = model.embed.weight
    part = partition_modules([First(model), Last(model)], model=model)
    assert part.model_state is not None
    assert part.model_state.places["embed.weight"] == part.model_state.places["head.weight"]
    assert all(part.model_state.places.values())


class Tail(nn.Module):
    """A stage as made by a splitter that keeps names and copies tensors."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.again, self.head = model.again, model.head
        self.layers = nn.ModuleDict({"2": model.layers[2]})

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers["2"](self.again(hidden)))
        return logits


def test_copies_are_known_by_name_and_value(model: Model) -> None:
    stages = [First(model), copy.deepcopy(Tail(model))]
    assert partition_modules(stages).tie_weights == {}
    part = partition_modules(stages, model=model)
    assert part.tie_weights == {"submod_0.words.weight": [("words.weight", 0), ("head.weight", 1)]}
    assert_same(part.state_dict_to_model(states_of(part)), model.state_dict())


@pytest.mark.parametrize("change", ["value", "name", "meta"])
def test_what_merely_resembles_a_copy_is_not_taken_for_one(model: Model, change: str) -> None:
    tail = copy.deepcopy(Tail(model))
    if change == "value":
        tail.again.running_mean[1] = 1e-30
    elif change == "name":
        tail.other = nn.Linear(1, 1)
    else:
        tail.to("meta")
    part = partition_modules([First(model), tail], model=model)
    assert part.tie_weights == {}
    with pytest.raises(ValueError, match="no stage holds 'layers.1.weight' of the model"):
        part.state_dict_to_model(states_of(part))


def test_a_stage_of_the_model_is_known_by_identity_whatever_its_names_are() -> None:
    model = nn.Sequential(nn.LayerNorm(2), nn.LayerNorm(2))
    stages = [nn.Sequential(layer) for layer in model]
    part = partition_modules(stages, ["input"], ["input", None], model=model)
    assert part.tie_weights == {}
    assert_same(part.state_dict_to_model(states_of(part)), model.state_dict())


def test_a_sparse_buffer_is_known_by_identity() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[1].register_buffer("adjacent", torch.eye(2).to_sparse())
    stages = [nn.Sequential(layer) for layer in model]
    part = partition_modules(stages, ["input"], ["input", None], model=model)
    exported = part.state_dict_to_model(states_of(part))
    assert exported["1.adjacent"].to_dense().tolist() == torch.eye(2).tolist()


def test_copies_may_be_tied_by_hand(model: Model) -> None:
    stages = [copy.deepcopy(each) for each in (First(model), Last(model), Last(model))]
    stages[1].table = nn.Parameter(stages[1].table.clone())
    first, second = [("table", 1), ("head.weight", 2)], [("words.weight", 0), ("table", 1)]
    part = partition_modules(stages, ["ids"], ["hidden", "hidden", None], ties=[first, second])
    assert part.tie_weights == {
        "submod_0.words.weight": [("words.weight", 0), ("table", 1), ("table", 2)]
    }


@pytest.mark.parametrize("place", [("word.weight", 0), ("head.weight", 2)])
def test_a_tie_by_hand_names_parameters(model: Model, place: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=f"ties: stage {place[1]} has no parameter '{place[0]}'"):
        partition_modules([First(model), Last(model)], ties=[[("words.weight", 0), place]])


def test_two_parameters_of_one_stage_are_not_one_weight(model: Model) -> None:
    last = Last(model)
    last.table = nn.Parameter(last.table.detach().clone())
    with pytest.raises(
        ValueError,
        match="'table' and 'head.weight' of stage 1 are two parameters, but are to be one weight",
    ):
        partition_modules(
            [First(model), last], ties=[[("words.weight", 0), ("table", 1), ("head.weight", 1)]]
        )
    tail = copy.deepcopy(Tail(model))
    tail.embed = copy.deepcopy(model.embed)
    with pytest.raises(ValueError, match="'head.weight' and 'embed.weight' of stage 1 are two"):
        partition_modules([First(model), tail], model=model)


def test_is_not_known_without_the_model(model: Model) -> None:
    part = partition_modules([First(model), Last(model)])
    with pytest.raises(ValueError, match="pass model= to partition_modules"):
        part.state_dict_to_model(states_of(part))
    with pytest.raises(ValueError, match="pass model= to partition_modules"):
        part.state_dict_from_model(model.state_dict())


def test_export_says_what_is_missing(model: Model, part: Partition) -> None:
    first, last = states_of(part)
    with pytest.raises(ValueError, match="there are 1 state dicts for 2 stages"):
        part.state_dict_to_model([first])
    del first["layer.bias"]
    with pytest.raises(ValueError, match="stage 0 has no 'layer.bias', which is the model's "
                                         "'layers.0.bias': its modules were changed"):  # fmt: skip
        part.state_dict_to_model([first, last])
    exported = part.state_dict_to_model([first, last], strict=False)
    assert list(exported) == [key for key in model.state_dict() if key != "layers.0.bias"]


def test_export_says_what_is_not_the_models(model: Model) -> None:
    last = Last(model)
    last.scale = nn.Parameter(torch.ones(1))
    part = partition_modules([First(model), last], model=model)
    with pytest.raises(ValueError, match="the model has no place for 'scale' of stage 1; make it"):
        part.state_dict_to_model(states_of(part))
    assert_same(part.state_dict_to_model(states_of(part), strict=False), model.state_dict())


def test_export_says_what_no_stage_holds(model: Model) -> None:
    model.spare = nn.Linear(1, 1)
    part = partition_modules([First(model), Last(model)], model=model)
    with pytest.raises(ValueError, match="no stage holds 'spare.weight' of the model; with"):
        part.state_dict_to_model(states_of(part))
    for stage, state in zip(
        part.stages, part.state_dict_from_model(model.state_dict()), strict=True
    ):
        stage.load_state_dict(state)


def test_export_refuses_copies_that_differ(model: Model, part: Partition) -> None:
    first, last = states_of(part)
    last["table"] = last["table"].clone()
    last["table"][0, 0] = torch.nextafter(last["table"][0, 0], torch.tensor(9.0))
    with pytest.raises(
        ValueError,
        match="'embed.weight' is one tensor, but 'words.weight' of stage 0 and 'table' of "
        "stage 1 differ; with strict=False the first is taken",
    ):
        part.state_dict_to_model([first, last])
    exported = part.state_dict_to_model([first, last], strict=False)
    assert exported["head.weight"] is first["words.weight"]


def test_import_needs_one_name_of_a_tied_weight(model: Model, part: Partition) -> None:
    state = model.state_dict()
    del state["embed.weight"]
    first, last = part.state_dict_from_model(state)
    assert first["words.weight"] is last["table"] is last["head.weight"]
    del state["head.weight"]
    with pytest.raises(ValueError, match="the state dict has no 'embed.weight' or 'head.weight', "
                                         "which is 'words.weight' of stage 0"):  # fmt: skip
        part.state_dict_from_model(state)
    assert "words.weight" not in part.state_dict_from_model(state, strict=False)[0]


def test_import_says_what_is_not_the_models(model: Model, part: Partition) -> None:
    state = model.state_dict()
    state["extra.weight"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"was partitioned has no \['extra.weight'\]"):
        part.state_dict_from_model(state)
    part.state_dict_from_model(state, strict=False)


def test_import_refuses_two_values_for_one_weight(model: Model, part: Partition) -> None:
    state = model.state_dict()
    state["head.weight"] = -state["head.weight"]
    with pytest.raises(ValueError, match="'words.weight' is one tensor, but 'embed.weight' and "
                                         "'head.weight' differ"):  # fmt: skip
        part.state_dict_from_model(state)
