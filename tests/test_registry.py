"""Registration of a framework's dialects."""

from __future__ import annotations

import pytest

from pipecodec import registry
from pipecodec.registry import get_dialect, register_framework_dialect


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(registry, "_dialects", {})


def test_decorator_registers_and_returns_its_target():
    @register_framework_dialect("toy", "pipeline_stage")
    class Stage:
        pass

    assert get_dialect("toy", "pipeline_stage") is Stage
    assert Stage.__name__ == "Stage"


def test_last_registration_wins():
    register_framework_dialect("toy", "engine")("first")
    register_framework_dialect("toy", "engine")("second")
    assert get_dialect("toy", "engine") == "second"


def test_unknown_dialect_lists_what_is_there():
    with pytest.raises(ValueError, match=r"no dialect toy/engine is registered; .*: nothing\."):
        get_dialect("toy", "engine")
    register_framework_dialect("toy", "stage")(1)
    register_framework_dialect("other", "engine")(2)
    with pytest.raises(ValueError, match=r"registered: other/engine, toy/stage\. Import"):
        get_dialect("toy", "engine")
