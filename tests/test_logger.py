"""Loggers that speak on some ranks only."""

from __future__ import annotations

import logging

import pytest

from pipecodec.logger import DEBUG, INFO, get_logger


@pytest.fixture
def logger(request):
    return get_logger(f"test.{request.node.name}", INFO)


@pytest.mark.parametrize(
    ("ranks", "speaks"), [(None, True), (2, True), (0, False), ([0, 2], True), ([0, 1], False)]
)
def test_ranks_select_who_speaks(logger, caplog, monkeypatch, ranks, speaks):
    monkeypatch.setenv("RANK", "2")
    logger.warning("weight %s", "wte", ranks=ranks)
    assert [record.getMessage() for record in caplog.records] == ["weight wte"] * speaks


def test_rank_is_zero_without_a_launcher(logger, caplog, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    logger.info("a", ranks=0)
    logger.info("b", ranks=1)
    assert caplog.messages == ["a"]


def test_initialised_process_group_wins_over_the_environment(logger, caplog, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    logger.info("zero", ranks=0)
    logger.info("three", ranks=3)
    assert caplog.messages == ["three"]


def test_record_names_the_callers_line(logger, caplog):
    logger.error("here", ranks=0)
    assert caplog.records[0].filename == "test_logger.py"


def test_level_is_kept():
    assert not get_logger("level", INFO).isEnabledFor(DEBUG)
    assert get_logger("level", DEBUG).isEnabledFor(DEBUG)


def test_extra_of_the_caller_is_kept(logger, caplog):
    logger.info("x", extra={"step": 4}, ranks=None)
    assert caplog.records[0].step == 4


def test_root_logger_is_left_alone():
    root = logging.getLogger()
    before = (root.level, list(root.handlers), list(root.filters))
    get_logger("one")
    get_logger("two")
    assert (root.level, root.handlers, root.filters) == before
    assert len(logging.getLogger("pipecodec").handlers) == 1
    assert not logging.getLogger("pipecodec.one").handlers


@pytest.mark.parametrize("configured", [False, True])
def test_stderr_only_where_the_application_has_no_handler(capsys, monkeypatch, configured):
    package = logging.getLogger("pipecodec")
    monkeypatch.setattr(package, "handlers", [])
    application = [logging.NullHandler()] if configured else []
    monkeypatch.setattr(logging.getLogger(), "handlers", application)
    get_logger("fallback").info("hello")
    shown = capsys.readouterr().err
    assert shown == ("" if configured else "INFO [pipecodec.fallback] hello\n")
