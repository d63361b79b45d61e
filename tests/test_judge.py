"""A rank's conclusions from where the ranks are in their calls."""

from __future__ import annotations

import pytest

from pipecodec.engine.calls import Calls, Progress
from pipecodec.engine.judge import GRACE, Judge

STALL = 1800.0


def progress(*calls: str) -> Progress:
    """Return a rank's progress, from its calls in order, each its state and its name."""
    posted: list[str] = ["0"]
    own = Calls(posted.append)
    for call in calls:
        own.enter(call[1:])
        if call[0] != ">":
            own.leave(call[0])  # type: ignore[arg-type]
    return Progress.parse(posted[-1])


def judged(
    mine: Progress,
    theirs: Progress,
    *,
    ended: bool = False,
    waited: float = 0.0,
    later: float = 0.0,
    lost: bool = False,
) -> str | None:
    """Return what rank 0 says of rank 1 when it looks, and looks again ``later``."""
    judge = Judge(STALL)
    gone = {1} if ended else set()
    judge.find((0, mine), {1: theirs}, gone, waited, 0.0, lost=lost)
    verdict = judge.find((0, mine), {1: theirs}, gone, waited + later, later, lost=lost)
    if verdict is None:
        return None
    assert verdict.rank == 1 or "different" in verdict.text
    return "raised" if verdict.raised else verdict.text


def test_progress_survives_as_text() -> None:
    there = progress("<a", "!b of 3", ">c")
    assert (there.number, there.inside) == (3, True)
    assert [(call.name, call.state) for call in there.calls] == [
        ("c", ">"),
        ("b of 3", "!"),
        ("a", "<"),
    ]
    assert there.call(4) is None and there.call(0) is None
    many = progress(*["<a"] * 100)
    assert many.number == 100 and many.call(100) and many.call(1) is None


@pytest.mark.parametrize("theirs", [(), ("<a",), ("<a", ">b"), ("<a", "<b"), ("<a", "<b", ">c")])
def test_a_rank_may_be_early_or_late(theirs: tuple[str, ...]) -> None:
    assert judged(progress("<a", ">b"), progress(*theirs), waited=STALL - 10, later=9) is None


@pytest.mark.parametrize("theirs", [("<a", ">c"), ("<a", "<c", ">b"), ("<c",), ("!c", ">b")])
def test_calls_that_differ_are_named(theirs: tuple[str, ...]) -> None:
    text = judged(progress("<a", ">b"), progress(*theirs))
    assert text is not None and "c on rank 1" in text


def test_an_end_matters_to_those_whose_call_it_missed() -> None:
    mine = progress("<a", ">b")
    assert judged(mine, progress("<a", "<b"), ended=True) is None
    for theirs in progress(), progress("<a"), progress("<a", ">b"):
        assert "the process of rank 1 ended" in (judged(mine, theirs, ended=True) or "")


def test_an_error_is_shared_once_the_others_had_time_to_raise_it_too() -> None:
    mine = progress("<a", ">b")
    for theirs in progress("<a", "!b"), progress("<a", "!b", ">c"):
        assert judged(mine, theirs, later=GRACE / 2) is None
        assert judged(mine, theirs, later=GRACE) == "raised"
        assert judged(mine, theirs, lost=True) == "raised"
    assert judged(mine, progress("<a", "=b"), later=60.0) is None  # which every rank raises
    assert judged(progress("<a", "!b", ">c"), progress("<a", "!b"), later=60.0) is None


def test_a_rank_that_raised_where_the_others_did_not_has_to_come_again() -> None:
    mine, theirs = progress("<a", "<b", ">c"), progress("<a", "!b")
    assert judged(mine, theirs, later=GRACE) is None
    assert judged(mine, theirs, later=6.0) == "raised"
    assert judged(mine, progress("<a", "!b", ">c"), later=60.0) is None


def test_a_stall_is_logged_once_and_an_error_only_after_its_timeout() -> None:
    mine, theirs = progress("<a", ">b"), {1: progress(">a")}
    judge = Judge(STALL)
    assert not list(judge.late(mine, theirs, 59.0))
    assert list(judge.late(mine, theirs, 61.0)) == [
        "b (call 2) has waited 61 seconds for rank 1, which is inside a (its call 1)"
    ]
    assert not list(judge.late(mine, theirs, 62.0))
    assert not list(judge.late(mine, {1: progress("<a", ">b")}, 99.0))
    text = judged(mine, theirs[1], waited=STALL + 1)
    assert text is not None and "rank 1 did not come to b (call 2)" in text
    assert judged(mine, progress("<a", ">b"), waited=STALL + 1) is None  # in the same call
