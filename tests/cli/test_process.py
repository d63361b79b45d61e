"""The command as a process: streams, signals, encodings, and the imports of the package."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipecodec

from .running import ROOT, invoke, start

pytestmark = pytest.mark.slow
HERE = "tests.cli.models"


def test_importing_the_package_imports_neither_click_nor_rich() -> None:
    code = "import sys, pipecodec; print([n for n in ('click', 'rich') if n in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (shown.stdout, shown.stderr) == ("[]\n", "")


def test_version() -> None:
    shown = start("--version")
    assert shown.returncode == 0
    assert shown.stdout.decode() == f"pipecodec {pipecodec.__version__}\n"


def test_json_is_all_of_stdout_whoever_prints(tmp_path: Path) -> None:
    """The model's own process, its libraries in C, and code at the end of the process."""
    (tmp_path / "noisy.py").write_text(
        "import atexit, os, sys\n"
        f"from {HERE} import loud\n"
        "atexit.register(print, 'at the end')\n"
        "def build():\n"
        "    os.write(1, b'past Python\\n')\n"
        "    os.system('echo a child')\n"
        "    sys.__stdout__.write('the old one\\n')\n"
        "    return loud()\n"
    )
    shown = start("doctor", "noisy:build", "--json", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr.decode()
    assert len(json.loads(shown.stdout)["stages"]) == 2
    for text in (b"past Python", b"a child", b"the old one", b"loud", b"at the end"):
        assert text in shown.stderr
    assert b"a warning of the model's" in shown.stderr
    assert b"\x1b" not in shown.stderr


def test_an_encoding_that_has_few_characters(tmp_path: Path) -> None:
    shown = start(
        "doctor", f"{HERE}:evil", "--html", tmp_path / "page.html", folder=ROOT,
        environment={"PYTHONIOENCODING": "ascii", "COLUMNS": "80"},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr.decode()
    text = shown.stdout.decode("ascii")
    assert "boundary 0->1: 2 messages forward" in text
    assert r"\u6f22" in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "漢" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_closed_pipe_and_a_full_disk(tmp_path: Path) -> None:
    frame = tmp_path / "frame.bin"
    pipecodec.pack(list(range(3000)))[-1].numpy().tofile(frame)
    reader, writer = os.pipe()
    os.close(reader)
    shown = start("inspect", frame, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (shown.returncode, shown.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        shown = start("inspect", frame, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert shown.returncode == 2
    assert shown.stderr == b"Error: cannot write the output: No space left on device\n"


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import sys, time\ndef build():\n    print('asleep', flush=True)\n    time.sleep(100)\n"
    )
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipecodec", "doctor", "sleeper:build", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, ours)
    try:
        assert process.stderr is not None and process.stdout is not None
        assert process.stderr.readline() == b"asleep\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()
    assert (process.returncode, out, err) == (130, b"", b"interrupted\n")


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_a_terminal(environment: dict[str, str]) -> None:
    """Colours and progress there, unless NO_COLOR; and lines no wider than it is."""
    ours, its = pty.openpty()
    told = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipecodec", "doctor", f"{HERE}:frozen"],
        cwd=ROOT, env=told, stdout=its, stderr=subprocess.PIPE, stdin=its,
    )  # fmt: skip
    assert process.stderr is not None
    os.close(its)
    shown, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += chunk
    os.close(ours)
    with process.stderr:
        errors = process.stderr.read()
    assert process.wait(60) == 0
    assert errors == b""
    text = shown.decode()
    assert ("\x1b[1;33m" in text) == (not environment)
    if environment:
        assert "\x1b[3" not in text
        plain = text.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
        assert max(len(line) for line in plain.splitlines()) <= 80
    assert "warnings" in text


def test_no_colour_in_a_pipe() -> None:
    assert "\x1b" not in invoke("doctor", f"{HERE}:frozen").output
