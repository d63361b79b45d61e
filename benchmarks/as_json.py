"""Results as JSON-ready values."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.environment import environment
from benchmarks.loops import LOOP_NS
from benchmarks.results import Quartiles, Report, Result, Row
from benchmarks.tables import ADVICE

__all__ = ["as_json"]


def as_json(report: Report) -> dict[str, Any]:
    """Return everything the tables show, and the quartiles; the README says what is in it."""
    return {
        "environment": environment(),
        "method": {"inner_loop_ns": LOOP_NS, "clock": "thread CPU time"},
        "advice": ADVICE,
        "contenders": {contender.NAME: contender.NOTE for contender in CONTENDERS},
        "missing": report.missing,
        "road": [
            {
                "leaves": crossing.leaves,
                "measure": crossing.measure,
                "pipecodec_us": round(crossing.ours_us, 4),
                "by_hand_us": round(crossing.by_hand_us, 4),
                "ratio": round(crossing.ratio, 3),
            }
            for crossing in report.road
        ],
        "structures": [
            _structure(part, result)
            for part, results in report.results.items()
            for result in results
        ],
    }


def _structure(part: str, result: Result) -> dict[str, Any]:
    return {
        "part": part,
        "name": result.structure.name,
        "description": result.structure.description,
        "tensors": result.tensors,
        "frame_bytes": result.frame_bytes,
        "rounds": result.rounds,
        "refused": result.refused,
        "rows": [_row(row, result) for row in result.rows],
    }


def _row(row: Row, result: Result) -> dict[str, Any]:
    return {
        "contender": row.contender,
        "mode": row.mode,
        "send_us": _spread(row.send),
        "receive_us": _spread(row.receive),
        "sum_us": _spread(row.sum),
        "ratio_to_steady": result.ratio(row, "steady"),
        "ratio_to_changing": result.ratio(row, "changing"),
    }


def _spread(quartiles: Quartiles) -> dict[str, float]:
    return {key: round(value, 4) for key, value in quartiles._asdict().items()}
