"""The benchmark that trains models with the origin's plumbing, and in pipecodec."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

# The benchmarks are not installed. Last, so that an installed pipecodec stays the one tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.origin.__main__ import NAMES, reference, trained
from benchmarks.origin.report import Result, as_table, judge
from benchmarks.origin.training import on_deepspeed, on_pipecodec
from benchmarks.written import TRAINING_COST, write_part
from pipecodec.demo.launch import Outcome


@pytest.mark.slow
def test_the_origins_plumbing_and_pipecodec() -> None:
    gpt2, llama = NAMES.index("GPT-2"), NAMES.index("Llama")
    alone = reference([gpt2, llama])
    assert trained(on_deepspeed, gpt2, alone[gpt2]).exact
    failed = trained(on_deepspeed, llama, alone[llama])
    assert failed.error == (
        "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn "
        "(rank 0)"
    )
    ours = trained(on_pipecodec, llama, alone[llama])
    assert ours.exact
    assert ours.weights == 0.0


def test_the_table_counts() -> None:
    found = [("A", Result(0.0), Result(0.0, 0.0)), ("B", Result(error="E"), Result(5e-7, 0.1))]
    table = as_table(found)
    assert table.startswith(
        "Of 2 models that torch's splitter cuts, the origin's plumbing trains 1 on DeepSpeed's "
        "own engine, and pipecodec 2, 1 of them bit for bit"
    )
    assert "| A | bit for bit | bit for bit |" in table
    assert "| B | `E` | trains, losses within 5e-07 |" in table


def ended(rank: int, losses: list[float], **weights: float) -> Outcome:
    return Outcome(rank, "ok", (losses, {name: np.array(w) for name, w in weights.items()}))


@pytest.mark.parametrize(
    ("outcomes", "text", "trains"),
    [
        ([ended(0, [2.0, 1.0], a=0.5), ended(1, [2.0, 1.0])], "bit for bit", True),
        ([ended(0, [2.0, 1.0], a=0.75)], "trains, losses within 0", True),
        ([ended(0, [2.0, 1.0 + 2**-21])], "trains, losses within 4.8e-07", True),
        ([ended(0, [2.0, 1.5])], "trains wrong, losses off by 0.5", False),
        ([ended(0, [2.0, float("nan")])], "trains wrong, losses off by nan", False),
        (
            [
                Outcome(0, "error", detail="RuntimeError: Connection closed by peer"),
                Outcome(1, "error", detail="Traceback\n  File\nValueError: planted\n"),
                Outcome(2, "killed"),
            ],
            "`ValueError: planted (rank 1)`",
            False,
        ),
        ([Outcome(0, "died", detail="exit code -6")], "`rank 0: died`", False),
        ([Outcome(0, "killed")], "`ended without a word`", False),
    ],
)
def test_verdicts(outcomes: list[Outcome], text: str, trains: bool) -> None:
    found = judge(outcomes, [2.0, 1.0], {"a": np.array(0.5)})
    assert (str(found), found.trains) == (text, trains)
    assert found.exact == (text == "bit for bit")


def test_the_page_has_all_models() -> None:
    page = TRAINING_COST.read_text(encoding="utf-8")
    for name in NAMES:
        assert f"| {name} | " in page


def test_a_part_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: written by its command -->\nold\n<!-- x: end -->\nb\n")
    for text in ("one\n", "two"):
        write_part(page, "x", text)
    assert page.read_text().splitlines() == [
        "a", "<!-- x: written by its command -->", "", "two", "", "<!-- x: end -->", "b",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="has no part 'y': it needs"):
        write_part(page, "y", "text")


def test_a_result_without_weights_is_exact() -> None:
    assert Result(0.0).exact
    assert not Result(error="x").trains
