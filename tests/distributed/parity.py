"""``python -m tests.distributed.parity``: training on the engine beside training in one process.

Prints the table of docs/boundary.md. Cells of one number of ranks share processes; one that fails
ends them, and those after it get new ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipecodec.demo.launch import Outcome, run_ranks

from .parity_cells import CELLS, FURTHER, KINDS, Cell
from .parity_pipeline import CELL_TIMEOUT, Result, pipeline_cells
from .parity_reference import flat_cells, plain_cells
from .stock import last_line

__all__ = ["Verdict", "verdicts"]

SHARE = 20
"""Cells that share processes at most: their groups stay open until these end."""


DIFFERENCES = {
    "a": "ZeRO steps one flat tensor with one step count, which a parameter without a gradient "
    "keeps up with; AdamW corrects its later steps for that. DeepSpeed's optimizer in one process "
    "has the same weights to the bit.",
    "b": "The squares of the gradients are summed by stage, tensor-parallel rank and replica "
    "before the norm that clips is taken, so that norm is rounded in another way.",
}
"""Why a cell may differ."""

ROUNDING = 1e-6
"""How far weights may be apart where a norm is rounded in another way; none is larger than 1."""


@dataclass
class Verdict:
    """How a cell compares: ``status`` is "equal", a key of DIFFERENCES, "refused" or "WRONG"."""

    status: str
    text: str


def verdicts(cells: Sequence[Cell]) -> dict[Cell, Verdict]:
    """Train every cell on the engine and in one process, and compare."""
    plain = _references(plain_cells, [cell for cell in cells if cell.precision == "fp32"])
    same = _references(flat_cells, [c for c in cells if c.precision != "fp32" or c.zero])
    found = {}
    for cell, trained in _trained(cells):
        if isinstance(trained, str):
            found[cell] = Verdict("refused" if trained.startswith("refused") else "WRONG", trained)
        else:
            found[cell] = _compared(cell, trained, plain.get(cell), same.get(cell))
        print(f"{cell.name}: {found[cell].text}", file=sys.stderr, flush=True)
    return found


def _references(function: object, cells: list[Cell]) -> dict[Cell, Result]:
    if not cells:
        return {}
    (outcome,) = run_ranks(function, 1, cells, timeout=60.0 + len(cells))
    assert outcome.status == "ok", outcome.detail
    results: dict[Cell, Result] = outcome.value
    return results


def _trained(cells: Iterable[Cell]) -> Iterator[tuple[Cell, list[Result] | str]]:
    """Yield what every rank of a cell's pipeline has, or how it failed."""
    worlds: dict[int, list[tuple[int, Cell]]] = defaultdict(list)
    for number, cell in enumerate(cells):
        worlds[cell.world].append((number, cell))
    for world, left in sorted(worlds.items()):
        while left:
            some = left[:SHARE]
            said: dict[int, dict[int, list[object]]] = defaultdict(lambda: defaultdict(list))

            def hear(rank: int, message: tuple[int, object], said=said) -> None:
                said[message[0]][rank].append(message[1])

            timeout = CELL_TIMEOUT * len(some)
            with tempfile.TemporaryDirectory() as folder:
                ended = run_ranks(
                    pipeline_cells, world, some, folder, timeout=timeout, on_message=hear
                )
            done = 0
            for number, cell in some:
                results = [r for own in said[number].values() for r in own if isinstance(r, Result)]
                if len(results) != world:
                    yield cell, _failure(ended, [list(own) for own in said[number].values()])
                    done += 1
                    break
                yield cell, results
                done += 1
            left = left[done:]


def _failure(ended: list[Outcome], said: list[list[object]]) -> str:
    """Say how a cell failed, in the words of the rank that knows best."""
    refusals = [own[-1] for own in said if isinstance(own[-1], str) and own[-1] != "begun"]
    if len(refusals) == len(ended) == len(said):
        return f"refused: {refusals[0]}"
    errors = [o for o in ended if o.status == "error"]
    own = [o for o in errors if "gloo/transport" not in o.detail and "RemoteError" not in o.detail]
    if own or errors:
        return f"error: {last_line((own or errors)[0].detail)}"
    dead = [o for o in ended if o.status == "died"]
    return f"the process dies: {dead[0].detail.splitlines()[0]}" if dead else "hang"


def _compared(
    cell: Cell, results: list[Result], plain: Result | None, same: Result | None
) -> Verdict:
    """Compare with torch alone in fp32, else with the same optimizer in one process."""
    expected = plain or same
    assert expected is not None
    wrong = _wrong(results, expected)
    if not wrong:
        return Verdict("equal", "equal")
    far = _far(results, expected)
    if plain and same and cell.optimizer.startswith("Adam") and not _wrong(results, same):
        return Verdict("a", f"{far:.0e} (a)")
    if "gradient_clipping" in cell.config and far <= ROUNDING:
        return Verdict("b", f"{far:.0e} (b)")
    return Verdict("WRONG", f"WRONG: {wrong}")


def _wrong(results: list[Result], expected: Result) -> str:
    """Say what differs from the reference, and in which step first."""
    far = f"weights differ by {_far(results, expected):.1e}"
    for result in results:
        for step, weights in enumerate(result.weights):
            for name in weights:
                if weights[name].tobytes() != expected.weights[step][name].tobytes():
                    return f"{far}, first {name} in step {step}"
        if expected.masters:
            for name, master in result.masters.items():
                if master.tobytes() != expected.masters[name].tobytes():
                    return f"{far}, those in fp32 of {name}"
        for what in ("losses", "evaluation", "scales"):
            if (got := getattr(result, what)) != (right := getattr(expected, what)):
                return f"{what} {got} instead of {right}"
        own = frozenset(result.weights[0])
        for step, got in enumerate(result.missing or ()):
            if expected.missing and got != (right := expected.missing[step] & own):
                return f"no gradient in step {step}: {sorted(got)} instead of {sorted(right)}"
    missing = set(expected.weights[0]).difference(*(result.weights[0] for result in results))
    return f"no rank has {sorted(missing)}" if missing else ""


def _far(results: list[Result], expected: Result) -> float:
    """Return the largest difference of a weight in any step, or of one in fp32 after the last."""
    pairs = [
        (weight, right[name])
        for result in results
        for own, right in (
            *zip(result.weights, expected.weights, strict=True),
            *([(result.masters, expected.masters)] if expected.masters else []),
        )
        for name, weight in own.items()
    ]
    return max(float(np.abs(one.reshape(-1) - other.reshape(-1)).max()) for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="train the cells whose names contain this text")
    parser.add_argument("--json", help="write the cells' names and outcomes to this file")
    arguments = parser.parse_args()
    cells = [cell for cell in CELLS + FURTHER if arguments.only in cell.name]
    found = verdicts(cells)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({cell.name: [v.status, v.text] for cell, v in found.items()}, file, indent=1)
    print("\n".join(table(found)))


def table(found: dict[Cell, Verdict]) -> Iterator[str]:
    """Yield the lines of the table, of the trainings beside it and of the reasons in them."""
    rows: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell, verdict in found.items():
        if cell in CELLS and verdict.text not in rows[cell.row][cell.kind]:
            rows[cell.row][cell.kind].append(verdict.text)
    if rows:
        yield "| optimizer | precision | ZeRO | replicas | " + " | ".join(KINDS) + " |"
        yield "|---|---|---|---|" + "---|" * len(KINDS)
    for row, by_kind in rows.items():
        yield f"| {row} | " + " | ".join("; ".join(by_kind[kind]) for kind in KINDS) + " |"
    further = [cell for cell in found if cell not in CELLS]
    if further:
        yield from ("", "| beside the table | |", "|---|---|")
    for cell in further:
        yield f"| {cell.name} | {found[cell].text} |"
    for key, reason in DIFFERENCES.items():
        if any(verdict.status == key for verdict in found.values()):
            yield from ("", f"({key}) {reason}")


if __name__ == "__main__":
    main()
