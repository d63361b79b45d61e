"""The picture of a pipeline as SVG: stages from top to bottom, skips over stages beside them.

Texts are set in a font whose characters have one width, so that they fit their boxes in any
browser; a text that is too long ends in "…", and its title has the whole.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape, unescape

from .facts import Boundary, Crossing, Report, StageReport
from .text import size

__all__ = ["Skip", "picture", "safe", "skips"]

FONT = 13
ADVANCE = 0.62 * FONT
"""Width of a character, with a little to spare: such fonts take 0.60."""

LEFT, BOX, HEIGHT = 10, 470, 96
LINE = 19
LANE = 30
LANES = 12
"""Skips that are drawn; the largest ones."""
SHOWN = 3
"""Values that are named at each boundary: the largest ones."""


@dataclass(frozen=True)
class Skip:
    """Values that pass at least one stage by: all that one stage gives to one later stage."""

    maker: int
    user: int
    names: tuple[str, ...]
    nbytes: int

    @property
    def mark(self) -> str:
        """The name of a maker and a user, as in "0→3"."""
        return f"{self.maker}→{self.user}"


def skips(report: Report) -> list[Skip]:
    """Return the values that skip stages, grouped, those of the first maker first.

    An input of the model comes from stage 0, which receives it.
    """
    found: dict[tuple[int, int], dict[str, int]] = {}
    for boundary in report.boundaries:
        for each in boundary.crossings:
            maker = each.made_by or 0
            if maker != boundary.index or each.travels == "own batch":
                continue
            for user in each.used_by:
                if user > maker + 1:
                    found.setdefault((maker, user), {})[each.path] = each.nbytes
    return [
        Skip(maker, user, tuple(values), sum(values.values()))
        for (maker, user), values in sorted(found.items())
    ]


def picture(report: Report) -> str:
    """Return an ``svg`` element; its colours are those of the page's style."""
    drawn = sorted(skips(report), key=lambda each: -each.nbytes)[:LANES]
    lanes = _lanes(sorted(drawn, key=lambda each: (each.user - each.maker, each.maker)))
    count = max(lanes.values(), default=-1) + 1
    width = LEFT + BOX + 20 + LANE * count + 10
    tops, y = [], 10
    for k in range(len(report.stages)):
        tops.append(y)
        gap = _gap(report.boundaries[k]) if k < len(report.boundaries) else 0
        y += HEIGHT + gap
    parts = [
        f'<svg class="picture" xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 10}"'
        f' viewBox="0 0 {width} {y + 10}" role="img" aria-labelledby="picture-title picture-text">',
        f'<title id="picture-title">The pipeline: {len(report.stages)} stages</title>',
        f'<desc id="picture-text">{safe(describe(report))}</desc>',
        f"<defs>{_arrow('flow', 14)}{_arrow('skip', 9)}</defs>",
    ]
    ways = {skip: _way(skip, lane, count, tops) for skip, lane in lanes.items()}
    parts += [_around(*way) for way in ways.values()]
    parts += [_tag(skip, *way) for skip, way in ways.items()]
    for boundary, top in zip(report.boundaries, tops, strict=False):
        parts += _boundary(boundary, top + HEIGHT)
    for stage, top in zip(report.stages, tops, strict=True):
        parts += _stage(report, stage, top)
    return "\n".join([*parts, "</svg>"])


def describe(report: Report) -> str:
    """Return the picture in words."""
    words = [f"A pipeline of {len(report.stages)} stages."]
    for boundary in report.boundaries:
        crossing = _crossing(boundary)
        words.append(
            f"{len(crossing)} values of {size(sum(c.nbytes for c in crossing))} cross from stage "
            f"{boundary.index} to stage {boundary.index + 1}."
        )
    words += [
        f"{len(each.names)} values of {size(each.nbytes)} skip from stage {each.maker} to stage "
        f"{each.user}."
        for each in skips(report)
    ]
    return " ".join(words)


def safe(text: str) -> str:
    r"""Return a text for HTML: special characters as entities, invisible ones as ``\x1b``."""
    shown = (
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")
        else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )  # fmt: skip
    return escape("".join(shown), quote=True)


def _lanes(ordered: list[Skip]) -> dict[Skip, int]:
    """Give each skip the nearest lane in which no other one passes the same stages."""
    lanes: dict[Skip, int] = {}
    for skip in ordered:
        taken = {
            lane
            for other, lane in lanes.items()
            if other.maker <= skip.user and skip.maker <= other.user
        }
        lanes[skip] = next(lane for lane in range(len(lanes) + 1) if lane not in taken)
    return lanes


def _crossing(boundary: Boundary) -> list[Crossing]:
    return [each for each in boundary.crossings if each.travels != "own batch"]


def _gap(boundary: Boundary) -> int:
    lines = 1 + min(len(_crossing(boundary)), SHOWN + 1)
    return 18 + LINE * lines + 12


def _cut(text: str, width: float) -> str:
    """Return as much of the text as `width` pixels hold."""
    text = " ".join(text.split())
    most = int(width / ADVANCE)
    taken = 0
    for i, character in enumerate(text):
        taken += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if taken > most:
            end = i
            while end and _columns(text[:end]) > most - 1:
                end -= 1
            return text[:end] + "…"
    return text


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _line(text: str, x: float, y: float, width: float, style: str, whole: str = "") -> str:
    shown = _cut(_visible(text), width)
    title = f"<title>{safe(whole)}</title>" if whole else ""
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{title}{escape(shown)}</text>'


def _visible(text: str) -> str:
    """Return the text with escapes for invisible characters, before it is cut."""
    return unescape(safe(text))


def _stage(report: Report, stage: StageReport, top: int) -> Iterator[str]:
    k = stage.index
    errors = sum(each.stage == k for each in report.errors)
    warnings = sum(each.stage == k for each in report.warnings)
    kind = "wrong" if errors else "doubtful" if warnings else "fine"
    yield f'<g class="stage {kind}" id="stage-{k}">'
    yield f'<rect class="box" x="{LEFT}" y="{top}" width="{BOX}" height="{HEIGHT}" rx="10"/>'
    words = [(errors, "problem"), (warnings, "warning")]
    told = ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in words if n)
    reserved = (len(told) + 2) * ADVANCE if told else 0
    x, inner = LEFT + 14, BOX - 28
    title = f"stage {k}: {stage.module}"
    yield _line(title, x, top + 24, inner - reserved, "name", title)
    if told:
        yield f'<text class="told" x="{LEFT + BOX - 14}" y="{top + 24}">{told}</text>'
    memory = [
        each.weight_bytes + each.gradient_bytes + each.optimizer_bytes for each in report.stages
    ]
    facts = f"{stage.parameters:,} parameters" + (
        ", frozen" if stage.frozen else f", {size(stage.weight_bytes)}"
    )
    yield _line(facts, x, top + 46, inner, "fact")
    yield from _bar("memory", size(memory[k]), memory[k], max(memory), x, top + 66)
    shares = [each.share or 0.0 for each in report.stages]
    took = "not run"
    if stage.seconds is not None and stage.share is not None:
        took = f"{1000 * stage.seconds:.3g} ms, {100 * stage.share:.0f} %"
    yield from _bar("forward", took, shares[k], max(shares), x, top + 84)
    yield "</g>"


def _bar(name: str, text: str, value: float, largest: float, x: float, y: float) -> Iterator[str]:
    whole = 190.0
    part = whole * value / largest if largest else 0.0
    yield f'<text class="fact" x="{x}" y="{y}">{name}</text>'
    yield f'<rect class="rail" x="{x + 70}" y="{y - 9}" width="{whole:g}" height="8" rx="4"/>'
    if part >= 1:
        yield f'<rect class="bar" x="{x + 70}" y="{y - 9}" width="{part:.1f}" height="8" rx="4"/>'
    yield _line(text, x + 70 + whole + 12, y, BOX - 28 - 70 - whole - 12, "fact")


def _boundary(boundary: Boundary, top: int) -> Iterator[str]:
    k, gap = boundary.index, _gap(boundary)
    crossing = sorted(_crossing(boundary), key=lambda each: -each.nbytes)
    x, width = LEFT + 60, BOX - 60
    yield f'<g class="boundary" id="boundary-{k}">'
    yield f'<path class="flow" d="M{LEFT + 34} {top + 3}V{top + gap - 3}" marker-end="url(#flow)"/>'
    total = size(sum(each.nbytes for each in crossing))
    values = f"{len(crossing):,} value{'' if len(crossing) == 1 else 's'}, {total}"
    if not crossing:
        values = "nothing crosses"
    if boundary.messages is not None:
        values += f"; {boundary.messages[0]} messages forward, {boundary.messages[1]} back"
    yield _line(values, x, top + 18 + FONT - 2, width, "sum")
    for i, each in enumerate(crossing[:SHOWN], 1):
        right = size(each.nbytes) if each.dtype is not None else each.kind
        column = 11 * ADVANCE
        what = (
            each.path if each.dtype is None else f"{each.path} {each.dtype}{[*(each.shape or ())]}"
        )
        y = top + 18 + FONT - 2 + LINE * i
        yield _line(right, x, y, column, "fact")
        yield _line(what, x + column, y, width - column, "value", what)
    if len(crossing) > SHOWN:
        rest = crossing[SHOWN:]
        nbytes = sum(each.nbytes for each in rest)
        text = f"and {len(rest):,} more" + (f", {size(nbytes)}" if nbytes else "")
        yield _line(text, x, top + 18 + FONT - 2 + LINE * (SHOWN + 1), width, "fact")
    yield "</g>"


def _arrow(name: str, side: int) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{side}" '
        f'markerHeight="{side}" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path class="head-{name}" d="M0 0 8 4 0 8z"/></marker>'
    )


def _way(skip: Skip, lane: int, lanes: int, tops: list[int]) -> tuple[float, float, float]:
    """Return where a skip leaves its maker and reaches its user, and the place of its lane.

    Skips arrive in a box's upper half and leave from its lower half.
    """
    half = HEIGHT / 2 - 10
    step = half / max(lanes, 1)
    begin = tops[skip.maker] + HEIGHT - 10 - step * lane
    end = tops[skip.user] + 10 + step * lane
    return begin, end, LEFT + BOX + 30 + LANE * lane


def _around(begin: float, end: float, x: float) -> str:
    edge = LEFT + BOX
    return (
        f'<path class="around" d="M{edge + 2} {begin:.1f}H{x - 6}q6 0 6 6V{end - 6:.1f}q0 6 -6 6'
        f'H{edge + 3}" marker-end="url(#skip)"/>'
    )


def _tag(skip: Skip, begin: float, end: float, x: float) -> str:
    middle = (begin + end) / 2
    names = ", ".join(skip.names)
    title = safe(f"{skip.mark}: {size(skip.nbytes)}: {names[:1000]}")
    return (
        f'<g class="skip" id="skip-{skip.maker}-{skip.user}"><title>{title}</title>'
        f'<rect class="tag" x="{x - 10}" y="{middle - 28:.1f}" width="20" height="56" rx="10"/>'
        f'<text class="mark" x="{x}" y="{middle:.1f}" transform="rotate(90 {x} {middle:.1f})">'
        f"{skip.mark}</text></g>"
    )
