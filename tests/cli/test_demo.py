"""The options of ``pipecodec demo``; tests/test_demo.py has its trainings."""

from __future__ import annotations

import importlib.util

import pytest

from pipecodec.demo import run
from pipecodec.demo.settings import Settings

from .running import invoke


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Settings] = []
    monkeypatch.setattr(run, "run", lambda settings: given.append(settings) or 1)
    options = "--model=llama --stages=2 --steps=3 --attention=eager --device=cpu --engine=torch"
    assert invoke("demo").exit_code == 1
    assert invoke("demo", *options.split(), "--tied", "--by-hand").exit_code == 1
    assert given == [
        Settings(),
        Settings("llama", 2, 3, "eager", tied=True, by_hand=True, device="cpu", engine="torch"),
    ]


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for options, names in (
        ([], "deepspeed and transformers"),
        (["--engine=torch"], "transformers"),
    ):
        ended = invoke("demo", *options)
        assert (ended.exit_code, ended.stdout) == (2, "")
        said = f"Error: the demo needs {names}; run: pip install 'pipecodec[demo]'\n"
        assert ended.stderr == said


@pytest.mark.parametrize("option", ["--stages=1", "--stages=7", "--steps=0", "--engine=x"])
def test_wrong_options(option: str) -> None:
    ended = invoke("demo", option)
    assert ended.exit_code == 2
    assert f"'{option.partition('=')[0]}'" in ended.stderr


def test_help_and_a_command_that_is_none() -> None:
    for arguments in ([], ["doctor"], ["inspect"], ["demo"]):
        ended = invoke(*arguments, "--help")
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert "--" in ended.stdout and "Exit codes: 0 " in ended.stdout
    ended = invoke("docter")
    assert ended.exit_code == 2
    assert "docter" in ended.stderr
