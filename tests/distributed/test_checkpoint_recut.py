"""A checkpoint of some stages goes on in another number of stages, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipecodec.deepspeed import load_checkpoint
from pipecodec.demo.launch import Rank

from .checkpoints import Case, build, engine_of, held, start, train
from .harness import values

STOP, END = 4, 6
FP32 = (("data_types", {"grad_accum_dtype": "fp32"}),)
CASES = {
    "AdamW": Case(groups=True, schedule="SequentialLR"),
    "momentum, tied, frozen": Case(
        "momentum", tied=(1, 5), frozen=(2,), schedule="OneCycleLR", groups=True
    ),
    "Adafactor, batch norm": Case("adafactor", norms=True, schedule="LambdaLR"),
    "ZeRO-1": Case(zero=1, groups=True, tied=(0, 3)),
    "bf16": Case(precision="bf16", tied=(0, 5)),
    "bf16 ZeRO-1, clipping": Case(precision="bf16", zero=1, clip=0.5, tied=(0, 5)),
    "bf16 ZeRO-1, accumulated in fp32": Case("momentum", "bf16", zero=1, groups=True, config=FP32),
    "fp16": Case("momentum", "fp16", groups=True),
    "fp16 ZeRO-1": Case(precision="fp16", zero=1, tied=(1, 4)),
    "frozen stage": Case(frozen=(0, 1, 2), zero=1),
}


def saved(rank: Rank, folder: str, stages: int, names: list[str]) -> dict[str, Any]:
    """Save in the midst of a training; return what was held then, and the losses that follow."""
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
        assert first[0] == later[0], name  # what follows has other sums of norms where it clips
        assert not losses or CASES[name].clip or first == later, name


@pytest.mark.parametrize(
    ("before", "after"), [((2, 1), (3, 1)), ((4, 1), (2, 1)), ((3, 1), (1, 1)), ((2, 2), (4, 1))]
)
def test_goes_on_to_the_last_bit(
    before: tuple[int, int], after: tuple[int, int], tmp_path: Path
) -> None:
    """(stages, replicas) before and after."""
    names = list(CASES)
    if after[0] == 1:
        names = names[:1]
    elif before != (2, 1):
        names = [name for name in names if CASES[name].precision != "fp32" or CASES[name].zero]
    one = values(saved, before[0] * before[1], str(tmp_path), before[0], names)
    two = values(resumed, after[0] * after[1], str(tmp_path), after[0], names)
    compare(one, two, losses=before[1] == after[1])
