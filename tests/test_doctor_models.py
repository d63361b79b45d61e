"""The report of Hugging Face models: by hand and cut, with caches, with a plan, without values."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
import transformers

import pipecodec
from pipecodec.cutting.partition import partition
from pipecodec.demo.by_hand import cut_into_stages
from pipecodec.demo.models import build_model


def batch(rows=2, length=12):
    ids = 1 + torch.arange(rows * length).reshape(rows, length) % 40
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.flip(0)}


def gpt2(**options):
    config = transformers.GPT2Config(
        n_layer=3, n_embd=16, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0,
        eos_token_id=0, loss_type="ForCausalLM", **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def mixtral(**options):
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, vocab_size=50, max_position_embeddings=64,
        use_cache=False, loss_type="ForCausalLM", **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.MixtralForCausalLM(config)


def faults(report, word):
    return [problem for problem in report.problems if word in problem.fault]


def crossings(report, boundary):
    return {crossing.path: crossing for crossing in report.boundaries[boundary].crossings}


def test_stages_of_gpt2_made_by_hand():
    model = build_model("gpt2", attention="eager")
    part = pipecodec.partition_modules(cut_into_stages(model, 3), model=model)
    inputs = batch(length=8)
    report = pipecodec.doctor(part, inputs["input_ids"], inputs["attention_mask"])
    hidden, mask, positions = crossings(report, 0).values()
    assert (hidden.dtype, hidden.shape, hidden.travels) == ("float32", (2, 8, 128), "tunnel")
    assert (mask.name, mask.dtype, mask.travels) == ("mask", "float32", "frame")
    assert mask.rules == ("float without a gradient: RuntimeError in backward",)
    assert (positions.name, positions.dtype, positions.used_by) == ("position_ids", "int64", (1, 2))
    assert report.boundaries[0].messages == (2, 1)
    assert sum(stage.parameters for stage in report.stages) == sum(
        parameter.numel() for parameter in model.parameters()
    )
    assert not faults(report, "cache")


def test_a_cut_model_with_its_makers_and_both_prices():
    model = mixtral()
    part = partition(model, kwargs=batch(), n_stages=3, recompute=False)
    report = pipecodec.doctor(part, **batch())
    found = crossings(report, 0)
    assert report.stages[1].module == part.cut.split[0]
    rotary = [c for path, c in found.items() if "rotary_emb" in path]
    assert len(rotary) == 2  # cosines and sines
    assert "modeling_mixtral.py:" in rotary[0].maker
    assert all(c.nbytes == 4 * 12 * 8 for c in rotary)
    assert part.cut.crossing["send"][0]["model_rotary_emb"].nbytes == 2 * 4 * 12 * 8
    for boundary in report.boundaries:
        sent, recomputed = (
            sum(value.nbytes for value in part.cut.crossing[way][boundary.index].values())
            for way in ("send", "recompute")
        )
        assert (boundary.sent_bytes, boundary.recomputed_bytes) == (sent, recomputed)
    text = str(report)
    assert "modeling_mixtral.py:" in text
    assert " if masks, positions and rotary tables are sent, " in text
    json.dumps(report.to_dict())


def test_a_plan_that_omits_values():
    """Transformers' plan hands on hidden_states and attention_mask, and layers take more."""
    part = partition(mixtral(output_router_logits=True), kwargs=batch(), n_stages=3)
    found = faults(pipecodec.doctor(part, **batch()), "pp_plan")
    assert [stage for stage, _, _ in found] == [1, 2]
    first, second = (fault for _, fault, _ in found)
    assert "hands on hidden_states, attention_mask, but model.layers." in first
    assert "position_embeddings" in first
    assert "model_layers_0_mlp_gate" in first
    assert "labels" not in first  # an input, which a plan leaves to the caller
    assert second.count("_mlp_gate") > first.count("_mlp_gate")


class Layer(torch.nn.Linear):
    _pp_plan: ClassVar = {"layers": (["hidden_states"], ["hidden_states"])}

    def forward(self, hidden_states, mask=None):
        hidden = super().forward(hidden_states)
        return hidden if mask is None else hidden * mask


class Layers(torch.nn.Module):
    def __init__(self, masked):
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(4, 4)])
        self.masked = masked

    def forward(self, x, mask):
        # computed from the value that crosses, which is then no omission
        return {"x": self.layers[0](x + 0, mask if self.masked else None)}


@pytest.mark.parametrize("masked", [True, False])
def test_a_plan_is_judged_by_the_arguments_of_layers(masked):
    class Last(Layers):
        def forward(self, x):
            return super().forward(x, torch.ones(4) if masked else None)

    part = pipecodec.partition_modules([Layers(masked), Last(masked)])
    report = pipecodec.doctor(part, torch.ones(2, 4), mask=torch.ones(2, 4))
    found = faults(report, "pp_plan")
    assert len(found) == masked
    if masked:
        assert found[0].fault == (
            "the model's pp_plan hands on hidden_states, but layers.0 and later layers or the "
            "output need mask too"
        )
    assert not any(layer._forward_pre_hooks for layer in part.stages[0].modules())


@pytest.mark.parametrize("cached", [True, False])
def test_a_cache_that_a_cut_model_hands_on(cached):
    part = partition(gpt2(use_cache=cached), kwargs=batch(), n_stages=3)
    found = faults(pipecodec.doctor(part, **batch()), "a cache of")
    assert [stage for stage, _, _ in found] == ([0, 1] if cached else [])
    if cached:  # keys and values: 2 x rows x heads x length x width, for one layer
        assert f"a cache of {2 * 2 * 2 * 12 * 8 * 4 / 1024:.3g} KiB crosses" in found[0].fault
        assert "use_cache=False" in found[0].remedy


def test_hidden_states_that_only_the_output_needs():
    model = gpt2(use_cache=False)
    inputs = {**batch(), "output_hidden_states": True}
    report = pipecodec.doctor(partition(model, kwargs=inputs, n_stages=3), **inputs)
    found = faults(report, "for the output alone")
    assert [stage for stage, _, _ in found] == [0, 1]
    assert 'outputs=["loss"]' in found[0].remedy


def test_several_ways_and_a_batch_that_takes_none():
    part = partition(gpt2(use_cache=False), kwargs=batch(), n_stages=2)
    assert part.cut.observations > 1
    report = pipecodec.doctor(part, **batch())
    assert len(faults(report, "it was observed in")) == (not part.cut.alike)
    del part.cut.notes[:]
    part.cut.notes.append("a note of the cut")
    assert "a note of the cut" in pipecodec.doctor(part, **batch()).notes


def test_without_values_nothing_is_run():
    model = gpt2(use_cache=False, attn_implementation="eager").to("meta")
    inputs = {name: value.to("meta") for name, value in batch().items()}
    part = partition(model, kwargs=inputs, n_stages=3)
    report = pipecodec.doctor(part, **inputs)
    assert any("nothing was run: stage 0 is on the meta device" in note for note in report.notes)
    assert sum(stage.weight_bytes for stage in report.stages) == 4 * model.num_parameters()
    assert all(stage.seconds is None for stage in report.stages)
    assert report.schedule.measured_bubble is None
    hidden = crossings(report, 0)["transformer_h_0"]
    assert (hidden.shape, hidden.dtype, hidden.travels) == ((2, 12, 16), "float32", "tunnel")
    assert (hidden.made_by, hidden.used_by) == (0, (1,))
    assert "modeling_gpt2.py" in hidden.maker
    assert report.boundaries[0].messages is None
    assert "nothing was run" in str(report)


def test_without_a_batch_nothing_is_run():
    model = build_model("gpt2")
    part = pipecodec.partition_modules(cut_into_stages(model, 2), model=model)
    report = pipecodec.doctor(part)
    assert report.notes == ["nothing was run: no batch was given"]
    assert [crossing.travels for crossing in report.boundaries[0].crossings] == ["unknown"] * 3
    json.dumps(report.to_dict())


def test_a_model_without_a_loss_is_noted():
    given = {name: value for name, value in batch().items() if name != "labels"}
    report = pipecodec.doctor(partition(gpt2(), kwargs=given, n_stages=2), **given)
    assert [note for note in report.notes if "the model returned no loss (loss is None)" in note]
    whole = pipecodec.doctor(partition(gpt2(), kwargs=batch(), n_stages=2), **batch())
    assert not [note for note in whole.notes if "no loss" in note]
