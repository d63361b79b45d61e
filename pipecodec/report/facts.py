"""The report as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["Boundary", "Crossing", "Problem", "Report", "Schedule", "StageReport"]


class _Problem(NamedTuple):
    stage: int | None
    fault: str
    remedy: str


class Problem(_Problem):
    """Names a fault or a waste: the stage (None: all of them), the fault, the remedy.

    A tuple of these three, with ``severity`` beside them: of an "error" training fails or is wrong;
    a "warning" costs time or memory, or is settled by ``initialize``.
    """

    severity: Literal["error", "warning"] = "error"

    @classmethod
    def warning(cls, stage: int | None, fault: str, remedy: str) -> Problem:
        """Return a problem that is a warning."""
        made = cls(stage, fault, remedy)
        made.severity = "warning"
        return made


@dataclass(frozen=True)
class Crossing:
    """Describes a leaf that crosses a boundary: a tensor, or a value that is none."""

    name: str
    """The value that it belongs to, as liveness names it."""
    path: str
    """Its place: the name, or as in ``mask['rows']``."""
    kind: str
    """"tensor", or the type: "int", "None", "str", ...; "absent" for an input that is not given."""
    dtype: str | None
    shape: tuple[int, ...] | None
    nbytes: int
    """Of a tensor's elements; 0 where that is unknown, and for a value that is no tensor."""
    travels: str
    """"tunnel" (with all other leaves that have gradients), "frame", "own message", "number" or
    "static number" (equal in all batches given), "structure", "cannot", "unknown", or "own batch":
    an input that the last stage takes unchanged. On DeepSpeed's engine it takes it from the batch
    that its own rank loads, and nothing crosses; on torch's schedules, where the first rank alone
    is given the batch, the input crosses to it, and messages and bytes do not count it."""
    gradient: bool
    used: bool | None
    """Whether the loss gives it a gradient; None where that is unknown, or it requires none."""
    used_by: tuple[int, ...]
    """The stages whose forward takes it."""
    made_by: int | None
    """The stage that makes it; None for an input of the model."""
    maker: str | None
    """Its place in the model's code, of a partition that was cut by observing."""
    varies: bool | None
    """Whether it differs between the batches given: shape and dtype of a tensor, any other value
    itself. None with one batch."""
    rules: tuple[str, ...]
    """Rules of DeepSpeed's engine that it would break if it were sent by hand, in a plain tuple;
    as pipecodec sends it, it breaks none."""


@dataclass(frozen=True)
class Boundary:
    """Lists the values that cross from stage ``index`` to the next one."""

    index: int
    crossings: tuple[Crossing, ...]
    messages: tuple[int, int] | None
    """Forward and back, for each micro-batch; None where nothing was packed."""
    nbytes: tuple[int, int] | None
    """Bytes of these messages."""
    tuple_messages: tuple[int, int] | None
    """Messages of a plain tuple of all tensors."""
    tuple_rules: tuple[str, ...]
    """Rules of DeepSpeed's engine that such a tuple would break as a whole."""
    sent_bytes: int | None
    """If masks, positions and rotary tables are sent; None for hand-made stages."""
    recomputed_bytes: int | None
    """If each stage computes them for itself."""


@dataclass(frozen=True)
class StageReport:
    """Describes a stage: parameters, memory, time."""

    index: int
    module: str
    """The class of its module, or the name of the module with which it begins."""
    parameters: int
    trainable: int
    """Elements of the parameters that require a gradient."""
    frozen: bool
    """It has parameters, and none is trainable."""
    tied: tuple[str, ...]
    """Its names of weights that other stages hold too."""
    weight_bytes: int
    """Of parameters and buffers."""
    gradient_bytes: int
    optimizer_bytes: int
    seconds: float | None
    """Of its forward, the least of a few runs; None where nothing was run."""
    share: float | None
    """Of the forward's time of all stages."""


@dataclass(frozen=True)
class Schedule:
    """Tells the part of the time in which a rank waits for others, under 1F1B."""

    micro_batches: int
    bubble: float
    """With stages that take equal time: (p-1) / (m+p-1)."""
    measured_bubble: float | None
    """With the stages' times; a backward counts as two forwards."""
    source: str


@dataclass(frozen=True)
class Report:
    """Reports on a partition; ``str`` is a table, ``to_dict`` is fit for JSON.

    ``problems`` has warnings too; ``errors`` and ``warnings`` are its two parts.
    """

    stages: tuple[StageReport, ...]
    boundaries: tuple[Boundary, ...]
    schedule: Schedule
    optimizer: str
    problems: list[Problem]
    notes: list[str]

    @property
    def errors(self) -> list[Problem]:
        """The problems with which training fails or is wrong."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that cost time or memory, or that ``initialize`` settles."""
        return [problem for problem in self.problems if problem.severity == "warning"]

    def __str__(self) -> str:
        """Return the report as text; lines that are no row of a table have at most 110 columns."""
        from .text import as_text

        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, strings and numbers, by the fields' names."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        plain["problems"] = [
            {**problem._asdict(), "severity": problem.severity} for problem in self.problems
        ]
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
