"""Batches as data loaders give them, packed for the first stage."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec import partition_modules
from pipecodec.codec import TunnelCodec
from pipecodec.deepspeed import DeepSpeedPipeStageWrapper
from pipecodec.engine.batch import packing_batch_fn
from pipecodec.engine.loss import Labels
from pipecodec.options import BoundaryOptions
from pipecodec.stages.local_inputs import find_local_inputs

from .test_deepspeed_wrapper import carried


class First(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, step: int = 3) -> Any:
        return {"given": (input_ids.float(), attention_mask, step)}


class Last(nn.Module):
    def forward(self, given: Any, segment: Any = None) -> Any:
        return {"given": given, "segment": segment}


INPUTS = ["input_ids", "unused", "attention_mask", "step", "segment"]
CPU = torch.device("cpu")
IDS, LABELS = torch.arange(6).reshape(2, 3), torch.tensor([1, 0])


def arrived(batch: Any, inputs: list[str] = INPUTS, **options: Any) -> tuple[Any, Any]:
    """Return the last stage's input for ``batch``, and the labels."""
    part = partition_modules([First(), Last()], inputs, ["given", None])
    first, last = (
        DeepSpeedPipeStageWrapper(
            stage,
            k,
            f"submod_{k}",
            2,
            part.liveness,
            part.stage_id_2_arg_names,
            packed_batches=True,
        )
        for k, stage in enumerate(part.stages)
    )
    tensors, labels = packing_batch_fn(first, part.input_names, CPU, **options)(batch)
    assert all(isinstance(tensor, Tensor) for tensor in tensors)
    out = last(carried(first(tuple(t.clone() for t in tensors))))
    (ids, mask, step), segment = out["given"], out["segment"]
    assert torch.equal(ids, IDS.float())
    return (mask, step, segment), labels


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_mapping_by_name_with_labels(kind: Any) -> None:
    batch = kind(input_ids=IDS, attention_mask=None, segment="b", step=7, labels=LABELS)
    given, labels = arrived(batch)
    assert given == (None, 7, "b") and labels is LABELS


def test_what_is_left_out_is_absent() -> None:
    given, labels = arrived({"input_ids": IDS, "attention_mask": None})
    assert given == (None, 3, None) and labels is None


def test_pair_by_position() -> None:
    given, labels = arrived(((IDS, None, 0, 9, [1, {"a": 2}]), LABELS))
    assert given == (0, 9, [1, {"a": 2}]) and labels is LABELS


def test_own_batch_fn() -> None:
    def batch_fn(batch: Any) -> tuple[Any, Any]:
        return {"input_ids": batch[0], "attention_mask": None}, batch[1]

    given, labels = arrived([IDS, LABELS, "id"], batch_fn=batch_fn)
    assert given == (None, 3, None) and labels is LABELS


def test_labels_that_the_model_takes_stay_among_its_inputs() -> None:
    class Loss(nn.Module):
        def forward(self, given: Any, labels: Tensor) -> Tensor:
            return labels

    part = partition_modules([First(), Loss()], ["input_ids", "attention_mask", "labels"])
    first = DeepSpeedPipeStageWrapper(
        First(), 0, "submod_0", 2, part.liveness, part.stage_id_2_arg_names, packed_batches=True
    )
    batch = {"input_ids": IDS, "attention_mask": None, "labels": LABELS}
    tensors, labels = packing_batch_fn(first, part.input_names, CPU)(batch)
    assert labels is LABELS
    values = first.incoming.unpack(tensors)
    assert torch.equal(values[first.batches.names.index("labels")], LABELS)


class Loss(nn.Module):
    def forward(self, given: Any, labels: Any, segment: Any = None) -> Any:
        if isinstance(labels, Tensor):
            labels += 1
        return {"given": given, "labels": labels, "segment": segment}


def last_of(inputs: list[str]) -> tuple[Any, Any]:
    """Return the partition of a model that makes its loss, and its last stage."""
    part = partition_modules([First(), Loss()], inputs, ["given", None])
    local = find_local_inputs(part.liveness, part.stage_id_2_arg_names, part.outputs)
    last = DeepSpeedPipeStageWrapper(
        Loss(), 1, "submod_1", 2, part.liveness, part.stage_id_2_arg_names, local=local
    )
    return part, last


GIVEN = {"input_ids": IDS, "attention_mask": None}


@pytest.mark.parametrize(
    "batch",
    [
        {**GIVEN, "labels": LABELS, "segment": "b"},
        ((IDS, None, "b", LABELS), None),
        ((IDS, None, "b"), LABELS),
        ({**GIVEN, "segment": "b"}, LABELS),
    ],
)
def test_the_last_stage_takes_its_own_inputs_of_any_form_of_batch(batch: Any) -> None:
    part, last = last_of(["input_ids", "attention_mask", "segment", "labels"])
    pack = packing_batch_fn(
        None, part.input_names, CPU, last=last, needed=part.liveness[0], own_loss=True
    )
    _, labels = pack(batch)
    last.last_batches.take(labels.inputs)
    assert last.liveness[1] == ["given"]
    sent = TunnelCodec.of(BoundaryOptions(), "sent").pack((("ids", None, 3),))
    out = last(sent)
    assert out["segment"] == "b" and torch.equal(out["labels"], LABELS + 1)


def test_the_last_stage_may_write_into_its_inputs_and_the_batch_stays() -> None:
    part, last = last_of(["input_ids", "attention_mask", "labels"])
    labels = torch.arange(2000)  # too large for the frame
    pack = packing_batch_fn(None, part.input_names, CPU, last=last, needed=part.liveness[0])
    _, packed = pack({**GIVEN, "labels": labels})
    for recomputes in (True, True, False):
        last.recomputes = recomputes
        last.last_batches.take(packed.inputs)
        out = last(TunnelCodec.of(BoundaryOptions(), "sent").pack((("ids", None, 3),)))
        assert torch.equal(out["labels"], torch.arange(2000) + 1)
    assert torch.equal(labels, torch.arange(2000))


def test_labels_of_a_model_that_makes_its_loss_are_an_input_alone() -> None:
    part, last = last_of(["input_ids", "attention_mask", "labels"])
    pack = packing_batch_fn(None, part.input_names, CPU, last=last, own_loss=True)
    assert pack({**GIVEN, "labels": LABELS})[1].value is None
    pack = packing_batch_fn(None, part.input_names, CPU, last=last)
    assert torch.equal(pack({**GIVEN, "labels": LABELS})[1].value, LABELS)


class OwnLoss(nn.Module):
    def forward(self, given: Any, labels: Tensor | None = None) -> Any:
        return given


@pytest.mark.parametrize("batch", [{**GIVEN, "labels": LABELS}, (GIVEN, LABELS)])
def test_labels_that_the_last_stage_would_not_get_are_refused(batch: Any) -> None:
    """A last stage with ``labels=None`` trained without them, on a loss of its own."""
    inputs = ["input_ids", "attention_mask", "step"]
    for stage, refused in ((OwnLoss(), True), (Last(), False)):
        part = partition_modules([First(), stage], inputs, ["given", None])
        last = DeepSpeedPipeStageWrapper(
            stage, 1, "submod_1", 2, part.liveness, part.stage_id_2_arg_names
        )
        pack = packing_batch_fn(None, inputs, CPU, last=last, own_loss=True)
        if refused:
            with pytest.raises(ValueError, match=r"the last stage would run .* \['input_ids', "):
                pack(batch)
        else:
            assert pack(batch) == ((), None)
        assert pack(GIVEN) == ((), None)


def test_says_that_the_last_stage_lacks_an_input() -> None:
    part, last = last_of(["input_ids", "attention_mask", "labels"])
    pack = packing_batch_fn(None, part.input_names, CPU, last=last)
    last.last_batches.take(pack(GIVEN)[1].inputs)
    with pytest.raises(ValueError, match="takes 'labels' from the batch of its own rank, which"):
        last(TunnelCodec.of(BoundaryOptions(), "sent").pack((("ids", None, 3),)))


def test_nested_labels_reach_the_loss_as_they_are() -> None:
    given = {"tokens": LABELS, "weights": [0.5, None], "names": ("a", LABELS)}
    _, labels = arrived(({"input_ids": IDS, "attention_mask": None}, given))
    assert isinstance(labels, Labels)
    assert labels.value["tokens"] is LABELS
    assert labels.value == given


def test_elsewhere_only_the_labels_are_taken() -> None:
    pack = packing_batch_fn(None, INPUTS, CPU)
    assert pack({"input_ids": IDS, "labels": LABELS}) == ((), LABELS)


def test_batch_without_gradients_and_of_another_size_is_packed() -> None:
    part = partition_modules([First(), Last()], INPUTS, ["given", None])
    first = DeepSpeedPipeStageWrapper(
        First(), 0, "submod_0", 2, part.liveness, part.stage_id_2_arg_names, packed_batches=True
    )
    pack = packing_batch_fn(first, part.input_names, CPU)
    sizes = []
    for enabled, rows in ((False, 3), (True, 2000), (False, 5)):
        with torch.set_grad_enabled(enabled):
            tensors, _ = pack(({"input_ids": torch.ones(rows, 3), "attention_mask": None}, None))
        sizes.append(len(tensors))
        assert tensors[0].is_floating_point() and tensors[0].numel() == 4
    assert sizes == [2, 3, 2]


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (IDS, ValueError, "mapping or a pair .* this one is a Tensor; pass batch_fn="),
        ({"input_ids": IDS, "typo": 1}, TypeError, "'typo' is not an input of the model"),
        (((IDS,) * 6, LABELS), TypeError, "6 inputs are given"),
    ],
)
def test_says_what_is_wrong_with_a_batch(batch: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        arrived(batch)
