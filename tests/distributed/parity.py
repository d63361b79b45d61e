"""``python -m tests.distributed.parity``: training on the engine beside training in one process.

Prints the table of docs/parity.md. Cells of one number of ranks share processes; one that fails
ends them, and those after it get new ones.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipecodec.demo.launch import Outcome, Rank

from .comparison import distance, first_difference
from .harness import outcomes, values
from .parity_cells import CELLS, FURTHER, KINDS, Cell
from .parity_reference import flat_cells, plain_cells
from .stock import last_line
from .training import Trained, train

__all__ = ["Verdict", "verdicts"]

CELL_TIMEOUT = 25.0
"""Seconds until a cell counts as hanging; it takes about one."""

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


def _references(function: Callable[..., Any], cells: list[Cell]) -> dict[Cell, Trained]:
    if not cells:
        return {}
    results: dict[Cell, Trained]
    (results,) = values(function, 1, cells, timeout=60.0 + 2 * len(cells))
    return results


def _trained(cells: Iterable[Cell]) -> Iterator[tuple[Cell, list[Trained] | str]]:
    """Yield the results of a cell's ranks, or the text of their failure."""
    worlds: dict[int, list[tuple[int, Cell]]] = defaultdict(list)
    for number, cell in enumerate(cells):
        worlds[cell.grid.processes].append((number, cell))
    for world, left in sorted(worlds.items()):
        while left:
            some = left[:SHARE]
            said: dict[int, dict[int, list[object]]] = defaultdict(lambda: defaultdict(list))

            def hear(rank: int, message: tuple[int, object], said=said) -> None:
                said[message[0]][rank].append(message[1])

            timeout = CELL_TIMEOUT * len(some)
            with tempfile.TemporaryDirectory() as folder:
                ended = outcomes(train_cells, world, some, folder, timeout=timeout, on_message=hear)
            done = 0
            for number, cell in some:
                every = [each for own in said[number].values() for each in own]
                results = [each for each in every if isinstance(each, Trained)]
                if len(results) != world:
                    yield cell, _failure(ended, [list(own) for own in said[number].values()])
                    done += 1
                    break
                yield cell, results
                done += 1
            left = left[done:]


def train_cells(rank: Rank, cells: list[tuple[int, Cell]], folder: str) -> None:
    """Train the cells one after the other; says when each begins, and its results.

    All ranks save in ``folder`` the cells that are resumed.
    """
    for number, cell in cells:
        faulthandler.dump_traceback_later(CELL_TIMEOUT, exit=True, file=2)
        rank.say((number, "begun"))
        try:
            rank.say((number, train(cell, f"{folder}/{number}")))
        except ValueError as refusal:
            rank.say((number, str(refusal)))
            raise
        gc.collect()  # parameters and their hooks hold each other


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
    cell: Cell, results: list[Trained], plain: Trained | None, same: Trained | None
) -> Verdict:
    """Compare with torch alone in fp32, else with the same optimizer in one process."""
    expected = plain or same
    assert expected is not None
    wrong = first_difference(results, expected)
    if not wrong:
        return Verdict("equal", "equal")
    far = distance(results, expected)
    if plain and same and cell.optimizer_name == "AdamW" and not first_difference(results, same):
        return Verdict("a", f"{far:.0e} (a)")
    if cell.clip and far <= ROUNDING:
        return Verdict("b", f"{far:.0e} (b)")
    return Verdict("WRONG", f"WRONG: {wrong}")


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
