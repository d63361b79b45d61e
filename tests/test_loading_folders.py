"""Stages of plain modules, and folders that are wrong."""

import json
import warnings

import pytest
import torch
from torch import nn

from pipecodec import load_stage, partition_modules

safetensors = pytest.importorskip("safetensors.torch")


class Scaled(nn.Module):
    """A layer with a buffer that no state dict holds."""

    def __init__(self, width=4, *, resets=True):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("scale", torch.full((width,), 3.0), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        if resets:
            self.reset_parameters = self.fill

    def fill(self):
        with torch.no_grad():
            self.scale.fill_(3.0)

    def forward(self, x):
        return self.linear(x) * self.scale + self.count


def build(**options):
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(**options), Scaled(**options))
    model[1].count += 2
    return model


def cut(**options):
    with torch.device("meta"):
        model = build(**options)
    return partition_modules(list(model), model=model)


def state():
    return {key: value.clone() for key, value in build().state_dict().items()}


def shards(folder, weights, weight_map):
    for name in dict.fromkeys(weight_map.values()):
        own = {key: weights[key] for key, file in weight_map.items() if file == name}
        safetensors.save_file(own, folder / name)
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_plain_model_is_loaded_by_the_keys_of_its_state_dict(tmp_path):
    safetensors.save_file(state(), tmp_path / "model.safetensors")
    part, whole = cut(), build()
    for stage in range(2):
        module = load_stage(part, stage, tmp_path)
        for name, tensor in whole[stage].state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor)
        assert torch.equal(module.scale, torch.full((4,), 3.0))
        assert isinstance(module.linear.weight, nn.Parameter)
    x = torch.ones(2, 4)
    assert torch.equal(part.stages[1](part.stages[0](x)), whole(x))


@pytest.mark.parametrize("sharded", [False, True])
def test_pickled_weights_are_read(sharded, tmp_path):
    weights = state()
    if sharded:
        files = {key: f"pytorch_model-0000{1 + int(key[0])}-of-00002.bin" for key in weights}
        for name in set(files.values()):
            torch.save({k: v for k, v in weights.items() if files[k] == name}, tmp_path / name)
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": files}))
    else:
        torch.save(weights, tmp_path / "pytorch_model.bin")
    module = load_stage(cut(), 1, tmp_path)
    assert torch.equal(module.linear.weight, weights["1.linear.weight"])
    assert int(module.count) == 2


def test_a_buffer_that_only_a_constructor_fills_is_refused_or_kept(tmp_path):
    safetensors.save_file(state(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="scale: it is in no checkpoint and cannot be computed"):
        load_stage(cut(resets=False), 0, tmp_path)
    with torch.device("meta"):
        model = build(resets=False)
    model[0].scale = torch.full((4,), 5.0)
    module = load_stage(partition_modules(list(model), model=model), 0, tmp_path)
    assert torch.equal(module.scale, torch.full((4,), 5.0))


@pytest.mark.parametrize("fill", [lambda t: t[:2].zero_(), lambda t: t.normal_()])
def test_a_buffer_that_is_filled_in_part_or_at_random_is_refused(fill, tmp_path):
    safetensors.save_file(state(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = build(resets=False)
    model[0].reset_parameters = lambda: fill(model[0].scale)
    with pytest.raises(ValueError, match="scale: it is in no checkpoint and cannot be computed"):
        load_stage(partition_modules(list(model), model=model), 0, tmp_path)
    assert model[0].scale.is_meta


def test_one_buffer_under_two_names_stays_one(tmp_path):
    safetensors.save_file(state(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = build()
    model[0].also = model[0].scale
    module = load_stage(partition_modules(list(model), model=model), 0, tmp_path)
    assert module.also is module.scale
    assert torch.equal(module.also, torch.full((4,), 3.0))


def test_a_parameter_that_has_memory_already_keeps_its_object(tmp_path):
    safetensors.save_file(state(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = build()
    kept = nn.Parameter(torch.zeros(4, 4))
    model[0].linear.weight = kept
    module = load_stage(partition_modules(list(model), model=model), 0, tmp_path)
    assert module.linear.weight is kept
    assert torch.equal(kept, build()[0].linear.weight)


def test_weights_that_a_hook_computes_are_left_to_it(tmp_path):
    def normed():
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)))

    whole = normed()
    safetensors.save_file(whole.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = normed()
    module = load_stage(partition_modules([model[0]], model=model), 0, tmp_path)
    assert torch.equal(module(torch.ones(2, 4)), whole(torch.ones(2, 4)))


def test_tensors_in_containers_are_named(tmp_path):
    safetensors.save_file(state(), tmp_path / "model.safetensors")
    part = cut()
    part.stages[0].tables = [torch.empty(2, device="meta")]
    with pytest.raises(ValueError, match="tables holds tensors without memory in a container"):
        load_stage(part, 0, tmp_path)


def test_all_that_is_wrong_with_the_values_is_told_at_once(tmp_path):
    weights = state()
    weights["0.linear.weight"] = torch.ones(4, 5)
    weights["0.linear.extra"] = weights.pop("0.linear.bias")
    safetensors.save_file(weights, tmp_path / "model.safetensors")
    part = cut(resets=False)
    with pytest.raises(ValueError) as error:
        load_stage(part, 0, tmp_path)
    text = str(error.value)
    assert "it has '0.linear.extra', which Sequential lacks" in text
    assert "it lacks '0.linear.bias'" in text
    assert "scale: it is in no checkpoint" in text
    assert all(tensor.is_meta for tensor in part.stages[0].parameters())
    weights["0.linear.bias"] = weights.pop("0.linear.extra")
    safetensors.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"'0.linear.weight' has shape \(4, 5\) there and \(4, 4"):
        load_stage(cut(), 0, tmp_path)
    load_stage(cut(), 1, tmp_path)


def test_other_entries_are_ignored_only_if_asked(tmp_path):
    safetensors.save_file(state() | {"more": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="it has 'more', which Sequential lacks"):
        load_stage(cut(), 0, tmp_path)
    load_stage(cut(), 0, tmp_path, strict=False)


def test_folders_without_weights(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        load_stage(cut(), 0, tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weights: .* it has config.json"):
        load_stage(cut(), 0, tmp_path)


def test_files_that_do_not_fit_the_index(tmp_path):
    weights = state()
    files = {key: f"model-0000{1 + int(key[0])}-of-00002.safetensors" for key in weights}
    shards(tmp_path, weights, files)
    load_stage(cut(), 0, tmp_path)
    safetensors.save_file(weights, tmp_path / "model-00001-of-00003.safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError) as error:
        load_stage(cut(), 0, tmp_path)
    assert "model-00002-of-00002.safetensors, which model.safetensors.index" in str(error.value)
    assert "model-00001-of-00003.safetensors is in" in str(error.value)
    safetensors.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has both model.safetensors and model.safetensors.index"):
        load_stage(cut(), 0, tmp_path)


def test_shards_that_lack_an_entry_or_are_damaged(tmp_path):
    weights = state()
    files = {key: f"model-0000{1 + int(key[0])}-of-00002.safetensors" for key in weights}
    shards(tmp_path, weights, files)
    first, second = (tmp_path / name for name in sorted(set(files.values())))
    safetensors.save_file({"0.linear.bias": weights["0.linear.bias"]}, first)
    second.write_bytes(b"\0" * 64)
    with pytest.raises(ValueError, match="safetensors lacks '0.linear.weight', which the index"):
        load_stage(cut(), 0, tmp_path)
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors cannot be read"):
        load_stage(cut(), 1, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="is no index"):
        load_stage(cut(), 0, tmp_path)


def test_the_stage_and_the_model_have_to_be_known(tmp_path):
    safetensors.save_file(state(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="there is no stage 2; there are 2"):
        load_stage(cut(), 2, tmp_path)
    with torch.device("meta"):
        stages = list(build())
    with pytest.raises(ValueError, match="pass it to pipecodec.partition, or as model= to"):
        load_stage(partition_modules(stages), 0, tmp_path)
