"""However one rank leaves the others waiting, they end with the reason, and slow ranks do not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipecodec.demo.launch import Rank

from .harness import outcomes
from .stages import build
from .table import engine_of
from .waiting import CASES, SLOW, run
from .waiting_case import GRID, ROW, data

PLANTED = r"RemoteError: rank {0}(, stage {0})?: ArithmeticError: planted"
DIFFERENT = "RemoteError: the ranks made different calls, as their call 3: "

READ = {
    "set-up: its optimizer factory raises": "rank 1 has no optimizer: ArithmeticError: planted",
    "set-up: its stage cannot be moved to the device": PLANTED,
    "set-up: it does not come (stall_timeout=3)": r"rank 1 did not come to initialize \(call 1\)",
    "it evaluates while the others train": DIFFERENT,
    "it saves while the others train": DIFFERENT,
    "it evaluates another number of micro-batches": DIFFERENT,
    "it trains another number of micro-batches": DIFFERENT,
    "it alone resets shapes": DIFFERENT,
    "it alone asks for the model's state dict": DIFFERENT,
    "its data loader ends early": "RemoteError: rank 0, stage 0: StopIteration",
    "it raises in the reduction of gradients": PLANTED,
    "it raises in a step that talks: ZeRO-1, clipping": PLANTED,
    "it raises in a step that talks: bf16, clipping": PLANTED,
    "its learning rate schedule raises": PLANTED,
    "it calls with a wrong argument and does nothing more": "rank 1, stage 1: TypeError: .*train_b",
    "it catches its error and calls again": DIFFERENT,
    "it catches its error and makes the same call again": "rank 1, stage 1: TypeError: data_iter",
    "saving raises": "RemoteError: save_checkpoint failed on rank 1: .*ArithmeticError: planted",
    "loading raises": "RemoteError: load_checkpoint failed on rank 2: .*ArithmeticError: planted",
    "it is killed, and a worker that it forked lives on": "the process of rank 1 ended inside",
    "it is killed in a step that talks": r"RemoteError: the process of rank 1 ended inside train_b",
    "its data loader calls sys.exit": "RemoteError: rank 0, stage 0: SystemExit",
    "it ends with exit code 0 after fewer batches": "the process of rank 2 ended after train_batch",
    "rank 0 ends with exit code 0 after fewer batches": "the process of rank 0 ended",
    "it does nothing more after fewer batches (stall_timeout=3)": "rank 1 did not come to train_b",
}


@pytest.mark.parametrize("name", READ)
def test_all_ranks_read_why(name: str) -> None:
    seconds, lines, ended = run(name)
    at_fault = CASES[name].fault
    assert seconds is not None, (lines, ended)
    for rank in {0, 1, 2} - {at_fault}:
        assert re.search(READ[name].format(at_fault), lines[rank])
        assert ended[rank].status == "ok"
    assert ended[at_fault].status == "ok" or CASES[name].ends


@pytest.mark.parametrize("name", SLOW)
def test_a_rank_that_is_merely_slow_is_no_error(name: str) -> None:
    """It takes twice as long as errors of one rank alone are given."""
    _, lines, ended = run(name)
    assert lines == [""] * 3
    assert [outcome.status for outcome in ended] == ["ok"] * 3


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


def chained() -> Exception:
    try:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise ArithmeticError("the error") from cause
    except ArithmeticError as error:
        return error


ERRORS = {
    "surrogates": (lambda: ValueError("half \ud800 and nul \0."), r"half \ud800 and nul \x00."),
    "megabytes": (lambda: ValueError("begin" + "x" * 5_000_000 + "end"), "characters left out"),
    "no text": (Unprintable, "rank 1, stage 1: Unprintable: (its message cannot be made: KeyError"),
    "a chain": (chained, "KeyError: 'the cause'"),
    "many lines": (lambda: ValueError("one\ntwo"), "rank 1, stage 1: ValueError: one two\n"),
}


def raising(rank: Rank, kind: str) -> str:
    engine = engine_of(ROW, build(ROW, 3), GRID)
    make = ERRORS[kind][0]

    def fail(*_: Any) -> None:
        raise make()

    if rank.rank == 1:
        engine.module.forward_funcs[0].mod.register_forward_pre_hook(fail)
    with pytest.raises(Exception) as caught:
        engine.train_batch(data())
    return "" if rank.rank == 1 else str(caught.value)


@pytest.mark.parametrize("kind", ERRORS)
def test_any_text_reaches_all_ranks(kind: str) -> None:
    for outcome in outcomes(raising, 3, kind):
        assert outcome.status == "ok", outcome.detail
        if outcome.rank != 1:
            assert ERRORS[kind][1] in outcome.value
            assert len(outcome.value) < 20_000
            outcome.value.encode()
