"""A checkpoint of some stages goes on in another number of stages, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipecodec.deepspeed import RemoteError, load_checkpoint
from pipecodec.demo.launch import Rank

from .checkpoints import Case, build, differing, engine_of, held, start, train
from .harness import values

STOP, END = 4, 7
FP32 = (("data_types", {"grad_accum_dtype": "fp32"}),)
CASES = {
    "AdamW": Case(groups=True, schedule="LambdaLR"),
    "momentum, tied, frozen": Case(
        "momentum", tied=(1, 5), frozen=(2,), schedule="OneCycleLR", groups=True
    ),
    "Adafactor, batch norm": Case("adafactor", norms=True, schedule="SequentialLR"),
    "ZeRO-1": Case(zero=1, groups=True, tied=(0, 3)),
    "bf16": Case(precision="bf16", tied=(0, 5)),
    "bf16 ZeRO-1, clipping": Case(precision="bf16", zero=1, clip=0.5, tied=(0, 5)),
    "bf16 ZeRO-1, accumulated in fp32": Case("momentum", "bf16", zero=1, groups=True, config=FP32),
    "fp16": Case("momentum", "fp16", groups=True),
    "fp16 ZeRO-1": Case(precision="fp16", zero=1, tied=(1, 4)),
    "frozen stage": Case(frozen=(0, 1, 2), zero=1),
}


def saved(rank: Rank, folder: str, stages: int, names: list[str]) -> dict[str, Any]:
    """Save in the midst of a training; return the state saved, and the losses that follow."""
    start()
    results = {}
    for name in names:
        rank.say(name)
        case = CASES[name]
        part = build(case, stages)
        engine = engine_of(case, part, rank.world // stages)
        train(engine, case, range(STOP))
        engine.save_checkpoint(f"{folder}/{name}", client_state={"seen": [rank.rank]})
        results[name] = held(engine, part), train(engine, case, range(STOP, END))
    return results


def resumed(rank: Rank, folder: str, stages: int, names: list[str]) -> dict[str, Any]:
    """Load into an engine with other weights; one that has trained already has no say either."""
    start()
    results = {}
    for name in names:
        rank.say(name)
        case = CASES[name]
        other = Case(**{**case.__dict__, "seed": 2})
        part = build(other, stages)
        engine = engine_of(other, part, rank.world // stages)
        train(engine, case, range(rank.world % 2))
        path, client = load_checkpoint(engine, part, Path(folder, name))
        assert path is not None and client is not None and Path(path).exists()
        assert client["seen"] == [0] and "optimizer" not in client
        results[name] = held(engine, part), train(engine, case, range(STOP, END))
    return results


def compare(saved: list[Any], resumed: list[Any], *, losses: bool) -> None:
    for name in resumed[0]:
        then: dict[str, Any] = {}
        for rank in reversed(saved):
            then.update(rank[name][0])
        seen = set()
        for rank in resumed:
            now = rank[name][0]
            wrong = [key for key in now if now[key] != then[key]]
            assert not wrong, (name, wrong, [(now[k], then[k]) for k in wrong[:1]])
            seen |= now.keys()
        assert seen == then.keys(), name
        assert any(": " in key for key in seen)
        first, later = (rank[0][name][1] for rank in (saved, resumed))
        if losses:
            assert first[0] == later[0], name  # then clipping sums the norm in another order
            assert CASES[name].clip or first == later, name


@pytest.mark.parametrize(
    ("before", "after"), [((2, 1), (3, 1)), ((4, 1), (2, 1)), ((3, 1), (1, 2)), ((2, 2), (4, 1))]
)
def test_goes_on_to_the_last_bit(
    before: tuple[int, int], after: tuple[int, int], tmp_path: Path
) -> None:
    """(stages, replicas) before and after."""
    names = list(CASES)
    if after[0] == 1:
        names = ["AdamW", "ZeRO-1", "bf16", "fp16 ZeRO-1"]
    elif before != (2, 1):
        names = [name for name in names if CASES[name].precision != "fp32" or CASES[name].zero]
    one = values(saved, before[0] * before[1], str(tmp_path), before[0], names)
    two = values(resumed, after[0] * after[1], str(tmp_path), after[0], names)
    compare(one, two, losses=before[1] == after[1])


OTHERS = {
    "no model": (Case(), False),
    "plain": (Case(), True),
    "tied": (Case(tied=(0, 5)), True),
    "groups": (Case(groups=True), True),
    "frozen": (Case(frozen=(1,)), True),
    "bf16": (Case(precision="bf16"), True),
    "ZeRO-1": (Case(zero=1), True),
    "momentum": (Case("momentum"), True),
    "norms": (Case(norms=True), True),
    "schedule": (Case(schedule="LambdaLR"), True),
}


def saved_in_two(rank: Rank, folder: str) -> None:
    start()
    for name, (case, model) in OTHERS.items():
        engine = engine_of(case, build(case, 2, model=model))
        train(engine, case, range(1))
        engine.save_checkpoint(f"{folder}/{name}", "tag")
    if rank.rank == 0:
        shutil.copytree(f"{folder}/plain", f"{folder}/by DeepSpeed")
        Path(folder, "by DeepSpeed/tag/pipecodec.json").unlink()
        shutil.copytree(f"{folder}/plain", f"{folder}/damaged")
        Path(folder, "damaged/tag/mp_rank_01_model_states.pt").write_bytes(b"nothing")


def refused_in_three(rank: Rank, folder: str) -> dict[str, str]:
    """Return why each is refused; one with other layers for each rank could wait for the others."""
    start()
    case = Case()
    part = build(case, 3)
    engine = engine_of(case, part)
    train(engine, case, range(1))
    before, told = held(engine, part), dict[str, str]()
    for name in [*OTHERS, "by DeepSpeed", "damaged", "absent"]:
        rank.say(name)
        if name != "plain":
            with pytest.raises((ValueError, RemoteError)) as caught:
                load_checkpoint(engine, part, f"{folder}/{name}", "tag")
            told[name] = str(caught.value)
    assert not differing(before, held(engine, part))
    without = build(case, 3, model=False)
    with pytest.raises(ValueError) as caught:
        load_checkpoint(engine_of(case, without), without, f"{folder}/plain")
    told["no model here"] = str(caught.value)
    assert load_checkpoint(engine, part, f"{folder}/absent") == (None, None)
    train(engine, case, range(1, 2))
    assert differing(before, held(engine, part))
    load_checkpoint(engine, part, f"{folder}/plain")
    assert not differing(before, held(engine, part))
    return told


REFUSED = {
    "no model": "pass model= to partition_modules, where it is saved and where it is loaded",
    "no model here": "pass model= to partition_modules, where it is saved and where it is loaded",
    "tied": "the checkpoint is of another model: one of both has ['decoder.0.shared'",
    "groups": "are in one parameter group, and were saved with other settings: weight_decay 0.2",
    "frozen": "decoder.1.linear.weight was not trained when it was saved, and is now",
    "bf16": "was saved with precision bf16, this engine has fp32",
    "ZeRO-1": "was saved with ZeRO stage 1, this engine has 0",
    "momentum": "was saved with SGD, this engine has AdamW",
    "norms": "the checkpoint is of another model: one of both has ['decoder.0.norm.bias'",
    "schedule": "was saved with the LR schedule LambdaLR, this engine has none",
    "by DeepSpeed": "was saved with 2 pipeline stages, this engine has 3",
    "damaged": "mp_rank_01_model_states.pt is damaged",
    "absent": "there is no folder {}/absent on this rank",
}


def test_refused_on_all_ranks(tmp_path: Path) -> None:
    values(saved_in_two, 2, str(tmp_path))
    for rank in values(refused_in_three, 3, str(tmp_path)):
        for name, text in REFUSED.items():
            assert text.format(tmp_path) in rank[name], (name, rank[name])
