"""The demo's stages against the unsplit models, and its command line from start to end."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

import pipecodec
from pipecodec.demo import report, run
from pipecodec.demo.by_hand import causal_lm_loss, cut_into_stages
from pipecodec.demo.crossing import Crossing
from pipecodec.demo.data import IGNORE, micro_batch, standard_library_text
from pipecodec.demo.launch import Outcome
from pipecodec.demo.models import build_model
from pipecodec.demo.settings import BLOCKS, Settings
from pipecodec.demo.train import Trained

FAST = ["--steps=2", "--stages=2"]
PATIENCE = 240.0
"""Seconds until a demo that does not end fails its test; it needs about 15."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on many threads are slow where other processes want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text() -> bytes:
    return standard_library_text(200_000)


@pytest.mark.parametrize("stages", [2, 3, BLOCKS])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_stages_equal_the_unsplit_model(
    name: str, attention: str, stages: int, text: bytes
) -> None:
    batch = micro_batch(text, 0, batch=2, length=24)
    whole = build_model(name, attention=attention)
    expected = whole(**batch._asdict())
    expected.loss.backward()

    cut = build_model(name, attention=attention)
    part = pipecodec.partition_modules(cut_into_stages(cut, stages))
    logits = pipecodec.run_local(part, batch.input_ids, batch.attention_mask)
    loss = causal_lm_loss(logits, batch.labels)
    loss.backward()

    assert torch.equal(logits, expected.logits)
    assert torch.equal(loss, expected.loss)
    gradients = {key: parameter.grad for key, parameter in whole.named_parameters()}
    assert len(gradients) > 10 * BLOCKS - 10
    for key, parameter in cut.named_parameters():
        assert torch.equal(parameter.grad, gradients[key]), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("stages", [1, BLOCKS + 1])
def test_refuses_a_number_of_stages_that_the_blocks_do_not_allow(stages: int) -> None:
    with pytest.raises(ValueError, match=f"{stages} stages: give 2 to {BLOCKS}"):
        cut_into_stages(build_model("gpt2"), stages)


def test_micro_batches_are_padded_text_and_the_same_every_time(text: bytes) -> None:
    first = micro_batch(text, 5, batch=4, length=32)
    assert all(map(torch.equal, first, micro_batch(text, 5, batch=4, length=32)))
    assert not torch.equal(first.input_ids, micro_batch(text, 6, batch=4, length=32).input_ids)
    for ids, mask, labels in zip(*first, strict=True):
        size = int(mask.sum())
        assert 16 <= size < 32
        assert bytes(ids[:size].tolist()) in text
        assert torch.equal(labels[:size], ids[:size])
        assert set(labels[size:].tolist()) == {IGNORE}


BY_HAND = (
    "hidden        float32 [8, 128, 128], 524,288 bytes, in the tunnel",
    "mask          bool [8, 1, 128, 128], 131,072 bytes, in a slot",
    "position_ids  int64 [1, 128], 1,024 bytes, in the frame",
    "rotary[1]     float32 [1, 128, 32], 16,384 bytes, in a slot",
    "5 messages: tunnel of 524,288 bytes, slots of 131,072 + 16,384",
)
CUT = (  # the last stage makes mask and rotary tables itself, of its own batch
    "model_layers_2  float32 [8, 128, 128], 524,288 bytes, in the tunnel",
    "2 messages: tunnel of 524,288 bytes, frame of 512",
)


@pytest.mark.parametrize(
    ("way", "crossed"), [([], CUT), (["--by-hand"], BY_HAND)], ids=["cut", "by-hand"]
)
def test_command_line(way: list[str], crossed: tuple[str, ...]) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pipecodec", "demo", "--model=llama", *FAST, *way],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stderr == ""
    assert shown.stdout.count("  step 2/2   loss ") == 2
    assert shown.stdout.count("none, equal to the last bit") == 2
    assert "From stage 0 to stage 1" in shown.stdout
    for line in crossed:
        assert line in shown.stdout
    assert "8 frames sent, 7 of them the frame before used again, 8 read" in shown.stdout


def test_tied_weights_stay_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.run(Settings(tied=True, steps=2, stages=2)) == 0
    shown = capsys.readouterr().out
    assert "largest difference of copies     none, equal to the last bit" in shown


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """A demo in its second step, in a process group of its own."""
    # A shell lets its background jobs ignore SIGINT, and so would all that a job starts.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipecodec", "demo", "--steps=10000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, ours)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "step     1/10000" in line:
                break
        yield process
    finally:
        for member in group(process.pid):
            member.kill()
        process.stdout.close()
        process.wait()


def group(leader: int) -> list[psutil.Process]:
    """Return the processes of a group that still run."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_demo(
    running: subprocess.Popen[str], how: signal.Signals, status: int
) -> None:
    assert len(group(running.pid)) >= 4
    if how is signal.SIGINT:
        os.killpg(running.pid, how)  # as a terminal does
    else:
        os.kill(running.pid, how)
    assert running.wait(PATIENCE) == status
    deadline = time.monotonic() + PATIENCE
    while (left := group(running.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert running.stdout is not None
    assert "Traceback" not in running.stdout.read()


def trained(*, losses: list[float], weights: dict[str, list[float]]) -> Trained:
    crossing = Crossing(
        values=[("hidden", "float32 [2]")],
        messages=[8, 256],
        sent={"frames": 3, "hits": 2},
        received={"reads": 3},
    )
    return Trained(losses, {name: np.array(w) for name, w in weights.items()}, crossing)


WHOLE = trained(losses=[2.0, 1.0], weights={"a": [1.0, 2.0], "b": [3.0]})
FIRST = trained(losses=[2.0, 1.0], weights={"a": [1.0, 2.0]})
LAST = trained(losses=[2.0, 1.0], weights={"b": [3.0]})


def test_report_finds_differences() -> None:
    assert report.loss_difference([FIRST, LAST], WHOLE) == 0.0
    assert report.weight_difference([FIRST, LAST], WHOLE) == 0.0
    late = replace(LAST, losses=[2.0, 1.5])
    assert report.loss_difference([FIRST, late], WHOLE) == 0.5
    assert np.isnan(report.loss_difference([FIRST, replace(LAST, losses=[2.0, np.nan])], WHOLE))
    other = trained(losses=LAST.losses, weights={"b": [3.25]})
    assert report.weight_difference([FIRST, other], WHOLE) == 0.25
    assert "largest difference in weights    0.25" in report.summary([FIRST, other], WHOLE)
    tied = trained(losses=LAST.losses, weights={**LAST.weights, "a": FIRST.weights["a"]})
    assert report.weight_difference([FIRST, tied], WHOLE) == 0.0
    assert report.copy_difference([FIRST, LAST]) is None
    assert report.copy_difference([FIRST, tied]) == 0.0
    drifted = replace(tied, weights={**tied.weights, "a": tied.weights["a"] + 0.5})
    assert "largest difference of copies     0.5" in report.summary([FIRST, drifted], WHOLE)
    with pytest.raises(ValueError, match="the stages hold 1 weights, the model 2"):
        report.weight_difference([FIRST], WHOLE)


@pytest.mark.parametrize(
    ("losses", "status"), [([2.0, 1.0], 0), ([2.0, 1.0 + 2e-6], 1), ([2.0, float("nan")], 1)]
)
def test_exit_status_tells_a_difference(
    losses: list[float], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = iter([[FIRST, replace(LAST, losses=losses)], [WHOLE]])
    monkeypatch.setattr(run, "_train", lambda *_: next(runs))
    assert run.run(Settings(stages=2)) == status


def test_exit_status_tells_that_copies_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = replace(LAST, weights={**LAST.weights, "a": FIRST.weights["a"] + 1e-7})
    runs = iter([[FIRST, copy], [WHOLE]])
    monkeypatch.setattr(run, "_train", lambda *_: next(runs))
    assert run.run(Settings(stages=2, tied=True)) == 1


def test_shows_which_process_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [Outcome(0, "killed"), Outcome(1, "error", detail="planted")]
    monkeypatch.setattr(run, "run_ranks", lambda *_, **__: outcomes)
    assert run.run(Settings(stages=2)) == 2
    shown = capsys.readouterr().err
    assert shown.endswith("process 1: error\nplanted\n")
    assert "process 0" not in shown


def test_says_which_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run.missing_packages(Settings()) == ["deepspeed", "transformers"]
    assert run.missing_packages(Settings(engine="torch")) == ["transformers"]
