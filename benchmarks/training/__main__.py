"""Command line: ``python -m benchmarks.training``."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.training.cases import DEMO, ENGINES, MODELS, TINY, Case, Size, cases
from benchmarks.training.contenders import CONTENDERS, ORIGIN
from benchmarks.training.results import Row, as_json, refused_row, rows_of, wrong
from benchmarks.training.running import attempt, in_one_process, measured
from benchmarks.training.table import as_text
from benchmarks.written import TRAINING_COST, write_part
from pipecodec.demo.launch import Outcome, run_ranks

__all__ = ["main", "measure"]

TIMEOUT = 900.0
PICTURE = TRAINING_COST.parent / "images" / "training.svg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure trainings in pipecodec beside stages by hand and the origin's algorithm.

    Returns 1 if a contender trained otherwise than one process.
    """
    options = _parse(arguments)
    sizes: tuple[Size, ...] = (DEMO, TINY)
    if options.quick:
        sizes = (replace(TINY, rounds=2, steps=1),)
    rows: list[Row] = []
    for stages in options.stages:
        rows += measure(cases(tuple(options.models), sizes, stages, tuple(ENGINES)))
    rows.sort(key=lambda row: [size.name for size in sizes].index(row.case.size.name))
    text = as_text(rows)
    print(text)
    if options.json is not None:
        found = {"environment": environment(), "rows": [as_json(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        # matplotlib is needed, and taken, for nothing else.
        from benchmarks.training.plot import plot

        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(rows, options.plot)
    if options.write:
        picture = f"![Time over that of the stages by hand](images/{options.plot.name})"
        write_part(TRAINING_COST, "training", f"{_versions()}\n\n{text}\n\n{picture}")
    return int(any(map(wrong, rows)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=_about())
    add = parser.add_argument
    add("--quick", action="store_true", help="two rounds of the tiny size")
    add("--stages", nargs="+", type=int, choices=(2, 3), default=(2, 3))
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--json", type=Path, metavar="PATH", help="write everything there as JSON")
    add("--plot", type=Path, metavar="PATH.svg", help="draw the ratios there")
    add("--write", action="store_true", help="write table and plot into the docs")
    options = parser.parse_args(arguments)
    if options.write:
        options.plot = PICTURE
    if options.plot is not None:
        try:
            importlib.import_module("matplotlib")  # now, not after minutes of measuring
        except ImportError as error:
            parser.error(f"--plot: {error}")
    return options


def _about() -> str:
    return (main.__doc__ or "").splitlines()[0]


def _versions() -> str:
    found = environment()
    names = ("torch", "deepspeed", "python")
    return (
        ", ".join([f"{found['cores']} cores", *(f"{name} {found[name]}" for name in names)]) + "."
    )


def measure(chosen: Sequence[Case]) -> list[Row]:
    """Return the rows of cases with the same number of stages."""
    stages = chosen[0].stages
    alone = _alone(chosen)
    errors = {
        model: _origin_on_torch(Case(model, TINY, stages, "torch"))
        for model in {case.model for case in chosen if case.engine == "torch"}
    }
    plan = []
    for case in chosen:
        names = list(CONTENDERS[case.engine])
        if case.engine == "torch" and errors[case.model]:
            names.remove(ORIGIN)
        plan.append((case, names))
    ended = run_ranks(
        measured, stages, plan, timeout=TIMEOUT, stop_at_failure=True, on_message=_show
    )
    ranks = _values(ended)
    rows: list[Row] = []
    for number, (case, names) in enumerate(plan):
        rows += rows_of(case, [rank[number] for rank in ranks], alone[case.model, case.size])
        if ORIGIN not in names:
            rows.append(refused_row(case, ORIGIN, errors[case.model]))
    return rows


def _alone(chosen: Sequence[Case]) -> dict[tuple[str, Size], list[float]]:
    """Return the losses of one process, by model and size."""
    cases = {(case.model, case.size): case for case in chosen}
    (losses,) = _values(run_ranks(in_one_process, 1, list(cases.values()), timeout=TIMEOUT))
    return dict(zip(cases, losses, strict=True))


def _origin_on_torch(case: Case) -> str:
    """Return the error of the origin's stages on torch's schedules; "" if there is none."""
    ended = run_ranks(attempt, case.stages, case, ORIGIN, timeout=TIMEOUT, stop_at_failure=True)
    failed = [outcome for outcome in ended if outcome.status not in ("ok", "killed")]
    return failed[0].detail.strip().splitlines()[-1] if failed else ""


def _values(ended: Sequence[Outcome]) -> list[Any]:
    failed = [f"rank {o.rank}: {o.status}\n{o.detail}" for o in ended if o.status != "ok"]
    if failed:
        raise RuntimeError("\n".join(failed))
    return [outcome.value for outcome in ended]


def _show(_rank: int, message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
