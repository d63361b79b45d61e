"""Errors as text, which can be sent and printed and is not too long, whatever the error holds."""

from __future__ import annotations

import builtins

import pytest

from pipecodec.engine.error_text import summary, trace, transportable


class Hostile(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("text", "becomes"),
    [("plain ü", "plain ü"), ("\udcff", r"\udcff"), ("a\0b", r"a\x00b"), ("", "")],
)
def test_text_can_be_sent(text: str, becomes: str) -> None:
    assert transportable(text) == becomes


def test_long_text_keeps_both_ends() -> None:
    text = transportable("begin" + "x" * 10_000_000 + "end")
    assert text.startswith("begin") and text.endswith("end")
    assert len(text) < 9000 and "9992008 characters left out" in text


def test_any_error_has_a_summary_and_a_trace() -> None:
    assert summary(ValueError("one\ntwo")) == "ValueError: one two"
    assert summary(StopIteration()).startswith("StopIteration: an iterator, such as that of")
    assert summary(Hostile()) == "Hostile: (its message cannot be made: KeyboardInterrupt)"
    assert "Hostile" in trace(Hostile())


def test_a_trace_has_causes_and_groups() -> None:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    assert "KeyError: 'inner'" in trace(error)
    group = getattr(builtins, "ExceptionGroup", None)  # since Python 3.11
    if group is not None:
        assert "ValueError: outer" in trace(group("many", [error]))


def test_a_chain_too_deep_for_the_stack_is_no_error() -> None:
    error: Exception = ValueError("first")
    for _ in range(5000):
        outer = ValueError("next")
        outer.__cause__, error = error, outer
    assert isinstance(trace(error), str)
