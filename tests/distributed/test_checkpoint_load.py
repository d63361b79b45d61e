"""A checkpoint that an engine cannot load is one error on all ranks, and changes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecodec.demo.launch import Rank

from .checkpoints import Case, build, differing, engine_of, held, start, train
from .harness import TIMEOUT, values

PLAIN = Case()
SAME = {
    "fp32": PLAIN,
    "fp32, momentum, schedule, groups": Case("momentum", schedule="OneCycleLR", groups=True),
    "fp32 ZeRO-1": Case(zero=1, clip=0.5),
    "bf16": Case(precision="bf16", clip=0.5),
    "bf16 ZeRO-1": Case(precision="bf16", zero=1, clip=0.5, tied=(0, 5)),
    "bf16, accumulated in fp32": Case(
        precision="bf16", zero=1, config=(("data_types", {"grad_accum_dtype": "fp32"}),)
    ),
    "fp16 ZeRO-1": Case(precision="fp16", zero=1),
    "fp16": Case(precision="fp16"),
    "frozen": Case("momentum", frozen=(0, 1, 2)),
}


def through_and_resumed(rank: Rank, folder: str) -> dict[str, Any]:
    """Save, train on, and load the checkpoint into an engine with other weights."""
    start()
    results = {}
    for name, case in SAME.items():
        rank.say(name)
        path = Path(folder, name)
        part = build(case, 2)
        engine = engine_of(case, part, replicas=2)
        train(engine, case, range(2))
        engine.save_checkpoint(path, client_state={"seen": [rank.rank, "text"]})
        saved = held(engine, part)
        through = train(engine, case, range(2, 4))
        other = Case(**{**case.__dict__, "seed": 2})
        part = build(other, 2)
        engine = engine_of(other, part, replicas=2)
        where, client = engine.load_checkpoint(path)
        results[name] = {
            "differing": differing(saved, held(engine, part)),
            "losses": (through, train(engine, case, range(2, 4))),
            "where": Path(where).parent.relative_to(path).as_posix(),
            "client": client["seen"],
        }
    return results


def test_resumes_to_the_last_bit(tmp_path: Path) -> None:
    timeout = TIMEOUT + 5 * len(SAME)
    ranks = values(through_and_resumed, 4, str(tmp_path), timeout=timeout)
    for number, ended in enumerate(ranks):
        for name, result in ended.items():
            assert not result["differing"], name
            assert result["losses"][0] == result["losses"][1], name
            assert result["where"] == "global_step2"
            assert result["client"] == [2 * (number // 2), "text"]  # the first replica's


def save_for_others(rank: Rank, folder: str) -> None:
    """Save checkpoints that other engines cannot load, in 4 ranks."""
    start()
    for name, case, stages in [
        ("four stages", PLAIN, 4),
        ("two replicas", PLAIN, 2),
        ("tied", Case(tied=(0, 5)), 2),
    ]:
        engine = engine_of(case, build(case, stages), 4 // stages)
        train(engine, case, range(1))
        engine.save_checkpoint(f"{folder}/{name}", "tag")


def refused_in_two(rank: Rank, folder: str) -> dict[str, Any]:
    """Return how this rank takes each checkpoint that it cannot load; two stages, one replica."""
    start()
    part = build(PLAIN, 2)
    engine = engine_of(PLAIN, part)
    train(engine, PLAIN, range(1))
    engine.save_checkpoint(f"{folder}/good", "tag")
    for name, case in {
        "bf16": Case(precision="bf16"),
        "ZeRO-1": Case(zero=1),
        "momentum": Case("momentum"),
        "groups": Case(groups=True),
        "schedule": Case(schedule="LambdaLR"),
        "batch norm": Case(norms=True),
        "without frozen": Case(frozen=(1,)),
    }.items():
        other = engine_of(case, build(case, 2))
        train(other, case, range(1))
        frozen = bool(case.frozen)
        other.save_checkpoint(f"{folder}/{name}", "tag", exclude_frozen_parameters=frozen)
        if frozen:
            engine_with_frozen, part_with_frozen = other, build(case, 2)
    if rank.rank == 0:
        damage(Path(folder))
    torch.distributed.barrier()
    before, results = held(engine, part), dict[str, Any]()

    def refused(name: str, *args: Any, load: Any = engine.load_checkpoint, **options: Any) -> None:
        rank.say(name)
        path = args[0] if args else f"{folder}/{name}"
        with pytest.raises((ValueError, RuntimeError, TypeError)) as caught:
            load(path, *args[1:], **options)
        changed = differing(before, held(engine, part))
        results[name] = f"{caught.value}{changed or ''}"

    for name in sorted(os.listdir(folder)):
        if name not in ("good", "another", "without frozen"):
            refused(name, f"{folder}/{name}", None if name == "latest" else "tag")
    refused(
        "without frozen", f"{folder}/without frozen", "tag", load=engine_with_frozen.load_checkpoint
    )
    refused("unseen", f"{folder}/good" if rank.rank else f"{folder}/absent", "tag")
    refused("unseen latest", f"{folder}/good" if rank.rank else f"{folder}/absent")
    refused("no tag", f"{folder}/good", "other")
    refused("tags", f"{folder}/good", ["tag", "other"][rank.rank])
    refused("options", f"{folder}/good", "tag", load_optimizer_states=rank.rank == 0)
    refused("no path", None if rank.rank else f"{folder}/good", "tag")
    refused("other copies", f"{folder}/{['good', 'another'][rank.rank]}", "tag")
    results["none"] = engine.load_checkpoint(f"{folder}/absent")
    results["loads"] = Path(engine.load_checkpoint(Path(folder, "good"))[0]).name
    results["still trains"] = train(engine, PLAIN, range(1, 2))
    results["left as it is"] = (
        engine_with_frozen.load_checkpoint(f"{folder}/without frozen", load_module_strict=False)[0]
        is not None
    )
    assert part_with_frozen.model_state is not None
    return results


def damage(folder: Path) -> None:
    """Make a damaged copy of the good checkpoint for each way in which one can be damaged."""

    def copy(name: str) -> Path:
        shutil.copytree(folder / "good", folder / name)
        return folder / name / "tag"

    layer, states = "layer_01-model_states.pt", "mp_rank_01_model_states.pt"
    data = (folder / "good" / "tag" / layer).read_bytes()
    (copy("missing") / states).unlink()
    (copy("missing layer") / layer).unlink()
    (copy("truncated") / layer).write_bytes(data[: len(data) // 2])
    (copy("garbage") / states).write_bytes(b"garbage" * 100)
    (copy("empty") / layer).write_bytes(b"")
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    (copy("flipped") / layer).write_bytes(flipped)
    shutil.copy(folder / "momentum" / "tag" / layer, copy("mixed") / layer)
    (copy("index") / "pipecodec.json").write_text("{")
    (copy("unfinished") / "pipecodec.json").write_text('{"format": 1}')
    shutil.copy(folder / "good/tag" / states, copy("leftover") / "mp_rank_02_model_states.pt")
    (copy("latest") / ".." / "latest").write_text("gone")
    index = copy("another") / "pipecodec.json"
    index.write_text(index.read_text().replace('"global_steps": 1', '"global_steps": 7'))
    (copy("by DeepSpeed, missing") / "pipecodec.json").unlink()
    (folder / "by DeepSpeed, missing" / "tag" / layer).unlink()
    for name in (
        "garbage",
        "four stages",
        "two replicas",
        "bf16",
        "ZeRO-1",
        "batch norm",
        "schedule",
    ):
        shutil.copytree(folder / name, folder / f"by DeepSpeed, {name}")
        (folder / f"by DeepSpeed, {name}" / "tag" / "pipecodec.json").unlink()


REFUSED = {
    "four stages": "was saved with 4 pipeline stages, this engine has 2; "
    "pipecodec.deepspeed.load_checkpoint loads into another number of stages",
    "two replicas": "with 2 data-parallel replicas, this engine has 1",
    "tied": "this engine has 1, other tied weights",
    "bf16": "with precision bf16, this engine has fp32",
    "ZeRO-1": "with ZeRO stage 1, this engine has 0",
    "momentum": "with optimizer SGD, this engine has AdamW",
    "groups": "with 2 parameter groups on a rank, this engine has 1",
    "schedule": "the LR schedule LambdaLR, this engine has none; load_lr_scheduler_states=False",
    "batch norm": "'inner.0.norm.weight', 'inner.0.norm.bias', 'inner.0.norm.running_mean' and 12 "
    "more in stage 0, which this engine lacks",
    "without frozen": "no 'inner.1.linear.weight', 'inner.1.linear.bias' in stage 0 "
    "(load_module_strict=False leaves that as it is)",
    "missing": "mp_rank_01_model_states.pt is missing (rank 1)",
    "missing layer": "layer_01-model_states.pt is missing (rank 1)",
    "truncated": "layer_01-model_states.pt is damaged: RuntimeError: PytorchStreamReader failed",
    "garbage": "mp_rank_01_model_states.pt is damaged",
    "empty": "layer_01-model_states.pt is damaged",
    "flipped": "layer_01-model_states.pt is damaged: the checksum of",
    "mixed": "layer_01-model_states.pt is not the file that was saved with this checkpoint",
    "index": "pipecodec.json is damaged",
    "unfinished": "was not saved to its end",
    "leftover": "has files of another checkpoint: mp_rank_02_model_states.pt",
    "by DeepSpeed, missing": "was saved with 1 pipeline stages, this engine has 2",
    "by DeepSpeed, garbage": "mp_rank_01_model_states.pt is damaged",
    "by DeepSpeed, four stages": "was saved with 4 pipeline stages, this engine has 2",
    "by DeepSpeed, two replicas": "with 2 data-parallel replicas, this engine has 1",
    "by DeepSpeed, bf16": "with precision bf16, this engine has fp32",
    "by DeepSpeed, ZeRO-1": "with ZeRO stage 1, this engine has 0",
    "by DeepSpeed, batch norm": "in stage 0, which this engine lacks",
    "by DeepSpeed, schedule": "load_lr_scheduler_states=False leaves it out",
    "unseen": "there is no folder {}/absent on this rank",
    "unseen latest": "there is no folder {}/absent on this rank; all ranks need the checkpoint's "
    "files (rank 0)",
    "no tag": "there is no checkpoint 'other' in {}/good; there are tag",
    "tags": "there is no checkpoint 'other' in {}/good; there are tag (rank 1)",
    "latest": "there is no checkpoint 'gone' in {}/latest; there are tag",
    "other copies": "ranks differ in pipecodec.json of tag: ",
    "options": "ranks differ in load_optimizer_states: True on rank 0; False on rank 1",
    "no path": "folder must be the save_dir of engine.save_checkpoint, not None",
}


def test_refused_on_all_ranks(tmp_path: Path) -> None:
    values(save_for_others, 4, str(tmp_path))
    first, second = values(refused_in_two, 2, str(tmp_path))
    for name, text in REFUSED.items():
        for rank in (first, second):
            assert text.format(tmp_path) in rank[name], (name, rank[name])
    for name in REFUSED.keys() - {"no path", "index", "unfinished"}:
        assert first[name] == second[name], name  # and so nothing was changed on either
    for rank in (first, second):
        assert rank["none"] == (None, None)
        assert rank["loads"].startswith("mp_rank_0")
        assert rank["left as it is"]
        assert set(rank) - set(REFUSED) == {"none", "loads", "still trains", "left as it is"}
