"""``pipecodec doctor``: its reports, and one sentence and an exit code for each way to fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .running import invoke

HERE = "tests.cli.models"
pytestmark = pytest.mark.filterwarnings("ignore:a warning of the model's")


def error_of(function: str, *more: str) -> tuple[int, str]:
    """Run ``doctor`` in a way that fails; return its exit code and its sentence."""
    ended = invoke("doctor", function, *more)
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    *usage, sentence = ended.stderr.splitlines()
    assert all(line.startswith(("Usage: ", "Try ")) or not line for line in usage), ended.stderr
    return ended.exit_code, sentence.removeprefix("Error: ")


def test_a_sound_model() -> None:
    ended = invoke("doctor", f"{HERE}:fine")
    assert ended.exit_code == 0, ended.output
    assert ended.stderr == ""
    assert "boundary 0→1: 2 messages forward" in ended.stdout
    assert ended.stdout.rstrip().endswith("no problems")
    assert not any(line != line.rstrip() for line in ended.stdout.splitlines())


def test_a_warning_is_no_failure() -> None:
    ended = invoke("doctor", f"{HERE}:frozen")
    assert ended.exit_code == 0
    assert "no problems\n\nwarnings\n  stage 1: none of its parameters is trainable" in ended.stdout


def test_problems_fail() -> None:
    ended = invoke("doctor", f"{HERE}:broken")
    assert ended.exit_code == 1
    assert "\nproblems\n  stage 0: to_sparse is not strided (sparse?)\n" in ended.stdout
    assert "    → send its indices and values\n" in ended.stdout


def test_stages() -> None:
    plain = json.loads(invoke("doctor", f"{HERE}:fine", "--stages", "4", "--json").stdout)
    assert len(plain["stages"]) == 4
    assert len(json.loads(invoke("doctor", f"{HERE}:fine", "--json").stdout)["stages"]) == 2


def test_micro_batches_and_optimizer() -> None:
    usual = json.loads(invoke("doctor", f"{HERE}:fine", "--json").stdout)
    given = ("--micro-batches=16", "--optimizer=sgd")
    other = json.loads(invoke("doctor", f"{HERE}:fine", "--json", *given).stdout)
    assert [each["schedule"]["micro_batches"] for each in (usual, other)] == [8, 16]
    assert [each["optimizer"] for each in (usual, other)] == ["adamw", "sgd"]
    states = invoke("doctor", f"{HERE}:fine", "--json", "--optimizer", "3").stdout
    assert json.loads(states)["optimizer"] == "3 states"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--optimizer=adan", "--optimizer adan: optimizer is one of 'sgd',"),
        ("--optimizer=-1", "--optimizer -1: optimizer is one of 'sgd',"),
        ("--micro-batches=0", "Invalid value for '--micro-batches': 0 is not in the range"),
    ],
)
def test_settings_of_the_report_that_are_wrong(option: str, sentence: str) -> None:
    code, said = error_of(f"{HERE}:fine", option)
    assert code == 2 and sentence in said


def test_json_is_all_of_stdout() -> None:
    ended = invoke("doctor", f"{HERE}:loud", "--json")
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["problems"] == []
    assert "loud\n" in ended.stderr


def test_json_tells_severity() -> None:
    for name, severity in (("frozen", "warning"), ("broken", "error")):
        plain = json.loads(invoke("doctor", f"{HERE}:{name}", "--json").stdout)
        assert severity in [problem["severity"] for problem in plain["problems"]]


def test_many_values_are_counted() -> None:
    ended = invoke("doctor", f"{HERE}:wide")
    assert "values" not in ended.stderr
    assert len(ended.stdout.splitlines()) < 100
    assert " more, " in ended.stdout and "see --json or --html" in ended.stdout


@pytest.mark.parametrize(
    ("function", "code", "sentence"),
    [
        ("nothing", 2, "'nothing' is not MODULE:FUNCTION, such as train:build"),
        ("a.py:build", 2, "MODULE is a name, not a file: a:build"),
        ("./a/b.py", 2, "MODULE is a name, not a file: a.b:FUNCTION"),
        (":", 2, "':' is not MODULE:FUNCTION"),
        ("a:b:c", 2, "'a:b:c' is not MODULE:FUNCTION"),
        ("no_such_module_x:build", 2, "there is no module 'no_such_module_x'"),
        ("tests.cli.none:build", 2, "there is no module 'tests.cli.none'"),
        (f"{HERE}:fin", 2, f"{HERE} has no 'fin'; did you mean fine"),
        (f"{HERE}:Place.built", 2, f"{HERE}.Place has no 'built'; did you mean build?"),
        (f"{HERE}:number", 2, f"{HERE}:number is of type int, and not a function"),
        (f"{HERE}:takes", 2, "has to take nothing and return (model, kwargs)"),
        (f"{HERE}:nothing", 2, "it returned one value of type NoneType"),
        (f"{HERE}:three", 2, "it returned 3 values"),
        (f"{HERE}:no_module", 2, "the first value is of type int"),
        (f"{HERE}:no_batch", 2, "the second value is of type Tensor"),
        (f"{HERE}:number_key", 2, "it has the key 1, which names no argument"),
        (f"{HERE}:reserved", 2, "gives a batch with 'optimizer', an argument of the doctor's own"),
        (f"{HERE}:later", 2, "it is an async function"),
        (f"{HERE}:raises", 1, "raises ValueError: planted in two lines (models.py:"),
        (f"{HERE}:odd", 1, "raises Odd: its text cannot be had (models.py:"),
        (f"{HERE}:leaves", 1, "raises SystemExit: 3 (models.py:"),
        (f"{HERE}:failing", 1, "planted"),
        (f"{HERE}:missing_argument", 1, "missing a required argument: 'x'"),
    ],
)
def test_one_sentence(function: str, code: int, sentence: str) -> None:
    ended, said = error_of(function)
    assert sentence in said
    assert ended == code


@pytest.mark.parametrize("stages", ["0", "-1", "x", "1.5"])
def test_no_number_of_stages(stages: str) -> None:
    code, said = error_of(f"{HERE}:fine", f"--stages={stages}")
    assert code == 2
    assert "'--stages'" in said


def test_too_many_stages() -> None:
    code, said = error_of(f"{HERE}:fine", "--stages=5")
    assert code == 2
    assert said == (
        "--stages 5: the model calls 4 layers between which it can be cut, too few for 5 stages; "
        "ask for at most 4"
    )


def test_a_graph_that_is_split_already() -> None:
    plain = json.loads(invoke("doctor", f"{HERE}:split", "--json").stdout)
    assert len(plain["stages"]) == 3
    code, said = error_of(f"{HERE}:split", "--stages=2")
    assert (code, said) == (2, "--stages 2: the graph is split into 3 already")


def test_a_model_that_goes_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("doctor", f"{HERE}:wanders", "--html=page.html").exit_code == 0
    assert (tmp_path / "page.html").exists()


def test_a_function_in_a_class() -> None:
    assert invoke("doctor", f"{HERE}:Place.build").exit_code == 0


def test_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given_here.py").write_text(f"from {HERE} import fine as build\n")
    assert invoke("doctor", "given_here:build").exit_code == 0
    (tmp_path / "needs_another.py").write_text("import no_such_module_y\n")
    code, said = error_of("needs_another:build")
    assert code == 1
    assert said.startswith("importing needs_another raises ModuleNotFoundError: No module named")
    assert "(needs_another.py:1)" in said
    (tmp_path / "wrong_text.py").write_text("x = 1\ny = (\n")
    code, said = error_of("wrong_text:build")
    assert code == 1
    assert "SyntaxError" in said and "wrong_text.py" in said


def test_debug_shows_the_traceback() -> None:
    ended = invoke("doctor", f"{HERE}:raises", "--debug")
    assert ended.exit_code == 1
    assert "Traceback" in ended.stderr and "in raises" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("Error: ")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    for file, said in (
        (tmp_path / "none" / "report.html", "there is no folder"),
        (tmp_path, "is a directory"),
    ):
        code, sentence = error_of(f"{HERE}:raises", f"--html={file}")
        assert (code, said in sentence) == (2, True), sentence


def test_a_page_is_written_beside_the_report(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    ended = invoke("doctor", f"{HERE}:broken", "--html", file, "--json")
    assert ended.exit_code == 1
    assert len(json.loads(ended.stdout)["stages"]) == 2
    assert file.read_text().startswith("<!doctype html>")
