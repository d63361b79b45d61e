"""Settings of the engine that would change the bytes of a frame."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from pipecodec.deepspeed.engine import deepspeed_pipe_engine
from pipecodec.deepspeed.guards import protect_frames, say_default_clipping, settings_of


class Topology:
    """Stands in for DeepSpeed's: the number of processes along each axis, 0 if it has none."""

    def __init__(self, **dims: int) -> None:
        self.dims = dims

    def get_dim(self, axis: str) -> int:
        return self.dims.get(axis, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"fp16": {"enabled": True, "auto_cast": True}}, r"fp16\.auto_cast casts .* set it to"),
        ({"has_bool_tensors": True}, "has_bool_tensors casts .* leave it out"),
        ({"zero_optimization": {"stage": 2}}, r"zero_optimization\.stage is 2, .* with 0 and 1"),
        (
            {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer is not covered",
        ),
        (
            {"zero_optimization": {"stage": 1, "round_robin_gradients": True}},
            "round_robin_gradients reorders",
        ),
        ({"fp16": {"fp16_master_weights_and_grads": True}}, "needs ZeRO's offloading"),
        ({"bf16": {"bf16_master_weights_and_grads": True}}, "needs ZeRO's offloading"),
        ({"torch_autocast": {"enabled": True}}, r"torch_autocast\.enabled lets .* use fp16"),
        ({"optimizer": {"type": "Adam", "legacy_fusion": True}}, "legacy_fusion finds the norm"),
        ({"data_efficiency": {"enabled": True}}, "data_efficiency.* leave it out"),
    ],
)
def test_refuses_what_the_engine_gets_wrong(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        protect_frames(config, Topology(pipe=2))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        protect_frames(str(path), Topology(pipe=2))


def test_accepts_settings_that_are_off() -> None:
    off = {"stage": 1, "offload_optimizer": {"device": "none"}, "cpu_offload": False}
    protect_frames(
        {"zero_optimization": off, "torch_autocast": {"enabled": False}}, Topology(pipe=2)
    )


def test_says_that_deepspeed_clips_by_default(caplog: pytest.LogCaptureFixture) -> None:
    say_default_clipping({"gradient_clipping": 0.0})
    assert not caplog.records
    say_default_clipping({})
    assert ["clipped to a norm of 1.0" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("dims", [{"pipe": 2}, {"pipe": 2, "model": 1, "data": 4}])
def test_changes_nothing_without_tensor_parallelism(dims: dict[str, int]) -> None:
    config = {"fp16": {"enabled": True}, "pipeline": {"pipe_partitioned": True}}
    before = json.dumps(config)
    protect_frames(config, Topology(**dims))
    assert json.dumps(config) == before


@pytest.mark.parametrize(
    ("pipeline", "turned_off"),
    [
        (None, "pipeline.pipe_partitioned and pipeline.grad_partitioned turned off"),
        ({"pipe_partitioned": False}, "pipeline.grad_partitioned turned off"),
        ({"grad_partitioned": False, "stages": 2}, "pipeline.pipe_partitioned turned off"),
        ({"pipe_partitioned": False, "grad_partitioned": False}, None),
    ],
)
def test_turns_partitioning_off_and_says_so(
    pipeline: dict[str, Any] | None, turned_off: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    config = {} if pipeline is None else {"pipeline": pipeline}
    with caplog.at_level(logging.WARNING):
        protect_frames(config, Topology(pipe=2, model=2))
    off = {"pipe_partitioned": False, "grad_partitioned": False}
    assert config["pipeline"] == {**(pipeline or {}), **off}
    if turned_off is None:
        assert not caplog.records
    else:
        assert turned_off in caplog.text


def test_asks_for_a_change_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"pipeline": {"grad_partitioned": False}}))
    with pytest.raises(ValueError, match=r"set pipe_partitioned to false .* pipeline of .*json"):
        protect_frames(path, Topology(pipe=2, model=2))


def test_refuses_changing_shapes_where_they_are_exchanged_once() -> None:
    protect_frames({}, Topology(pipe=2), schedule="dualpipev")
    with pytest.raises(
        ValueError, match="DualPipeV exchanges the shapes .* or use schedule='1f1b'"
    ):
        protect_frames({}, Topology(pipe=2), schedule="dualpipev", dynamic_shape=True)
    with pytest.raises(
        ValueError, match="schedule must be one of '1f1b', 'dualpipev', not 'gpipe'"
    ):
        protect_frames({}, Topology(pipe=2), schedule="gpipe")


def test_says_that_deepspeed_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """DualPipeV came with 0.19.8, and the tests do not pass with the release before it."""
    pytest.importorskip("deepspeed.pipe")
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.pipe.dualpipev", None)
    with pytest.raises(RuntimeError, match=r"needs DeepSpeed 0\.19\.8 or newer, this is 0\.\d+"):
        deepspeed_pipe_engine(None, [], config={}, topology=Topology(pipe=2), loss_fn=None)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("[1]", TypeError, r"content of \S*ds\.json must be a dict of settings, not a list"),
        ("{", ValueError, r"the file \S*ds\.json is no JSON"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(
    tmp_path: Path, content: str, error: type[Exception], message: str
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(content)
    with pytest.raises(error, match=message):
        settings_of(str(file))
