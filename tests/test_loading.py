"""Stages of a model on meta, loaded from a folder, are the model's that wrote it."""

import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import pipecodec
from pipecodec import load_stage, run_local

from .loading_models import (
    FAMILIES,
    asks_for_addresses,
    batch,
    build,
    on_meta,
    partition,
    same_bits,
    save,
    tensors_of,
    transformers,
)

pytestmark = asks_for_addresses


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return for a family the model that was built, and its folder in shards."""
    made = {}

    def folder(family):
        if family not in made:
            model = build(family)
            made[family] = model, save(model, tmp_path_factory.mktemp("model"))
        return made[family]

    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_stages_are_the_model_to_the_last_bit(family, folders):
    model, folder = folders(family)
    part = partition(family)
    for stage in (2, 0, 1):
        assert load_stage(part, stage, folder) is part.stages[stage]
    whole, held = tensors_of(model), set()
    for stage in part.stages:
        for name, tensor in tensors_of(stage).items():
            assert same_bits(tensor, whole[name]), name
            assert tensor.requires_grad == whole[name].requires_grad, name
            assert tensor.data_ptr() % 64 == 0, name
            held.add(name)
    assert held >= set(dict(model.named_parameters()))

    expected = model(**batch())
    expected.loss.backward()
    out = run_local(part, **batch())
    out.loss.backward()
    assert type(out) is type(expected)
    assert same_bits(out.loss, expected.loss) and same_bits(out.logits, expected.logits)
    for stage in part.stages:
        for name, parameter in stage.named_parameters():
            gradient = model.get_parameter(name).grad
            assert (parameter.grad is None) == (gradient is None), name
            assert gradient is None or same_bits(parameter.grad, gradient), name
    model.zero_grad()


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_model_on_meta_is_cut_as_the_built_one(family, folders):
    model, _ = folders(family)
    built = pipecodec.partition(model, kwargs=batch(), n_stages=3, verify="structure")
    on_meta = partition(family)
    assert on_meta.cut.fingerprint == built.cut.fingerprint
    assert on_meta.cut.recomputed and on_meta.cut.crossing == built.cut.crossing
    assert any("no values" in note for note in on_meta.cut.notes)


def test_layers_without_memory_cannot_be_timed():
    with pytest.raises(ValueError, match='balance="time" needs a model with memory'):
        pipecodec.partition(on_meta("llama"), kwargs=batch(), n_stages=2, balance="time")


def test_a_fake_model_is_loaded_as_one_on_meta(folders):
    model, folder = folders("llama")
    with FakeTensorMode():
        fake = build("llama")
    part = pipecodec.partition(fake, kwargs=batch(), n_stages=3)
    for stage in range(3):
        load_stage(part, stage, folder)
    assert same_bits(run_local(part, **batch()).loss, model(**batch()).loss)


def test_only_the_files_of_the_stage_are_read(folders, tmp_path):
    model, folder = folders("llama")
    part = partition("llama")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    own = {file for key, file in index.items() if key in tensors_of(part.stages[1])}
    for file in folder.iterdir():
        unread = file.suffix == ".safetensors" and file.name not in own
        (tmp_path / file.name).write_bytes(b"no weights" if unread else file.read_bytes())
    assert own < set(index.values())
    load_stage(part, 1, tmp_path)
    for name, tensor in tensors_of(part.stages[1]).items():
        assert same_bits(tensor, tensors_of(model)[name])
    assert all(p.is_meta for p in part.stages[2].parameters())
    with pytest.raises(ValueError, match="cannot be read"):
        load_stage(part, 2, tmp_path)


def test_tied_weights_have_one_name_in_the_folder_and_one_object_in_a_process(folders):
    model, folder = folders("qwen3 tied")
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" not in weight_map
    together, alone = partition("qwen3 tied"), partition("qwen3 tied")
    load_stage(alone, 2, folder)
    head = alone.stages[2].get_parameter("lm_head.weight")
    assert same_bits(head, model.lm_head.weight)
    load_stage(together, 2, folder)
    load_stage(together, 0, folder)
    embedding = together.stages[0].get_parameter("model.embed_tokens.weight")
    assert embedding is together.stages[2].get_parameter("lm_head.weight")


def test_a_folder_of_the_base_model_and_one_that_is_not_sharded(tmp_path):
    model = build("qwen3 tied")
    model.model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    part = partition("qwen3 tied")
    for stage in range(3):
        load_stage(part, stage, tmp_path)
    assert same_bits(run_local(part, **batch()).loss, model(**batch()).loss)


def test_dtype_is_that_of_from_pretrained(folders):
    _, folder = folders("t5")
    part = partition("t5")
    expected = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)
    dtypes = set()
    for stage in range(3):
        load_stage(part, stage, folder, dtype=torch.float16)
        for name, parameter in part.stages[stage].named_parameters():
            assert same_bits(parameter, expected.get_parameter(name)), name
            dtypes.add(parameter.dtype)
    assert dtypes == {torch.float16, torch.float32}  # T5 keeps some in float32


def test_values_have_the_dtype_of_the_model(folders):
    _, folder = folders("llama")
    model = on_meta("llama").to(torch.bfloat16)
    part = pipecodec.partition(model, kwargs=batch(), n_stages=3)
    load_stage(part, 1, folder)
    assert {p.dtype for p in part.stages[1].parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_another_models_folder_is_refused_with_all_reasons_and_nothing_is_changed(
    family, folders, tmp_path
):
    model, config, settings = FAMILIES[family]
    other = getattr(transformers, config)(**settings | {"hidden_size": 16, "num_hidden_layers": 4})
    getattr(transformers, model)(other).save_pretrained(tmp_path)
    part = partition(family)
    with pytest.raises(ValueError) as error:
        load_stage(part, 2, tmp_path)
    text = str(error.value)
    assert text.startswith(f"stage 2 cannot be loaded from {tmp_path}: ")
    assert "'model.layers.3." in text and "lacks; is it another model's" in text
    assert "'lm_head.weight' has shape (61, 16) there and (61, 32) in the model" in text
    assert "'model.layers.2.self_attn.q_proj.weight' has shape" in text
    if family == "mixtral":
        assert "'model.layers.2.mlp.experts.gate_up_proj' has shape (4, 96, 16)" in text
    assert all(tensor.is_meta for tensor in tensors_of(part.stages[2]).values())


def test_tied_names_with_different_values_are_refused(tmp_path):
    from safetensors.torch import save_file

    model = build("qwen3 tied")
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    part = partition("qwen3 tied")
    save_file(state, tmp_path / "model.safetensors")
    load_stage(part, 2, tmp_path)
    state["lm_head.weight"] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="are one weight in the model, and differ there"):
        load_stage(part, 2, tmp_path)


def test_quantized_weights_are_refused(folders, tmp_path):
    _, folder = folders("llama")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its weights are quantized"):
        load_stage(partition("llama"), 0, tmp_path)


def test_a_partition_of_a_model_with_memory_has_nothing_to_load(folders):
    model, folder = folders("llama")
    part = pipecodec.partition(model, kwargs=batch(), n_stages=2, verify="structure")
    with pytest.raises(ValueError, match="does not know a model without memory"):
        load_stage(part, 0, folder)
