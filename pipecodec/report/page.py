"""A report as one page of HTML, which needs no script, no other file and no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .facts import Boundary, Problem, Report
from .picture import drawn, picture, safe
from .skips import skips
from .style import STYLE
from .text import boundary_notes, crossing_cells, messages, schedule_lines, size, stage_cells

__all__ = ["as_html"]

OPEN = 25
"""Values of a boundary up to which its table is open."""

LISTED = 20
"""Names of the values of one skip that are listed."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def as_html(report: Report, name: str) -> str:
    """Return the page.

    Args:
        report: as ``doctor`` gives it.
        name: of the model, for the title.
    """
    return "\n".join(_page(report, name)) + "\n"


def _page(report: Report, name: str) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<link rel="icon" href="data:,">'
    yield f"<title>{safe(name)}: {len(report.stages)} pipeline stages</title>"
    yield f"<style>{STYLE}</style>"
    yield "</head>"
    yield "<body>"
    yield "<main>"
    yield f"<h1><code>{safe(name)}</code> in {_count(len(report.stages), 'stage')}</h1>"
    yield _verdict(report)
    yield from _findings(report)
    yield '<section aria-labelledby="pipeline"><h2 id="pipeline">The pipeline</h2>'
    yield f'<div class="scroll">{picture(report)}</div>'
    yield from _skips(report)
    yield "</section>"
    yield from _stages(report)
    yield from _boundaries(report)
    if report.notes:
        yield '<section aria-labelledby="notes"><h2 id="notes">Notes</h2><ul>'
        yield from (f"<li>{safe(note)}</li>" for note in report.notes)
        yield "</ul></section>"
    yield "</main>"
    yield "</body>"
    yield "</html>"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _verdict(report: Report) -> str:
    parts = [
        _count(len(each), word)
        for each, word in ((report.errors, "problem"), (report.warnings, "warning"))
        if each
    ]
    kind = "wrong" if report.errors else "doubtful" if report.warnings else "fine"
    return f'<p class="verdict {kind}">{" and ".join(parts) or "No problems"}</p>'


def _findings(report: Report) -> Iterator[str]:
    for title, kind, found in (
        ("Problems", "wrong", report.errors),
        ("Warnings", "doubtful", report.warnings),
    ):
        if found:
            yield f'<section aria-labelledby="{kind}"><h2 id="{kind}">{title}</h2>'
            yield from (_finding(each, kind) for each in found)
            yield "</section>"


def _finding(problem: Problem, kind: str) -> str:
    stage, fault, remedy = problem
    where = "All stages" if stage is None else f"Stage {stage}"
    then = f"<p>→ {safe(remedy)}</p>" if remedy else ""
    return f'<div class="finding {kind}"><p><strong>{where}:</strong> {safe(fault)}</p>{then}</div>'


def _skips(report: Report) -> Iterator[str]:
    found = skips(report)
    if not found:
        return
    if (shown := len(drawn(found))) < len(found):
        yield f"<p>The picture has room for {shown} of these {len(found)}: the largest.</p>"
    rows = [
        [each.mark, f"{len(each.names):,}", size(each.nbytes), _listed(each.names)]
        for each in found
    ]
    yield from _table(
        "Skips: values that a stage gives to another one than the next.",
        ["stages", "values", "bytes", "names"],
        rows,
        {1, 2},
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _stages(report: Report) -> Iterator[str]:
    yield '<section aria-labelledby="stages"><h2 id="stages">Stages</h2>'
    head = ["stage", "begins with", "parameters", "trained", "weights", "gradients"]
    head += [report.optimizer, "forward"]
    rows = [stage_cells(stage) for stage in report.stages]
    yield from _table("Memory, and the share of the forward's time.", head, rows, {2, 4, 5, 6, 7})
    tied = [(each.index, ", ".join(each.tied)) for each in report.stages if each.tied]
    if tied:
        rows = [[str(index), names] for index, names in tied]
        yield from _table("Weights that stages share.", ["stage", "weights"], rows, set())
    sentence, source = schedule_lines(report)
    yield f'<p>{safe(sentence)}.</p><p class="soft">{safe(source)}.</p></section>'


def _boundaries(report: Report) -> Iterator[str]:
    if not report.boundaries:
        return
    yield '<section aria-labelledby="boundaries"><h2 id="boundaries">Boundaries</h2>'
    for boundary in report.boundaries:
        yield from _boundary(boundary)
    yield "</section>"


def _boundary(boundary: Boundary) -> Iterator[str]:
    k = boundary.index
    yield f"<h3>From stage {k} to stage {k + 1}</h3>"
    yield f"<p>{safe(messages(boundary))}.</p>"
    if not boundary.crossings:
        yield "<p>Nothing crosses.</p>"
        return
    head = ["value", "type", "bytes", "travels", "gradient", "made by", "used by", "made at"]
    rows = [[*crossing_cells(each), each.maker or "-"] for each in boundary.crossings]
    count = len(rows)
    is_open = " open" if count <= OPEN else ""
    yield f"<details{is_open}><summary>{_count(count, 'value')}</summary>"
    yield from _table(f"Values from stage {k} to stage {k + 1}.", head, rows, {2})
    yield "</details>"
    yield from (f'<p class="soft">{safe(note)}.</p>' for note in boundary_notes(boundary))


def _table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int]
) -> Iterator[str]:
    """Yield a table whose first column heads its rows; `numbers` are columns set to the right."""

    def style(i: int) -> str:
        return ' class="number"' if i in numbers else ""

    yield f'<div class="scroll"><table><caption>{safe(caption)}</caption><thead><tr>'
    yield from (f'<th scope="col"{style(i)}>{safe(each)}</th>' for i, each in enumerate(head))
    yield "</tr></thead><tbody>"
    for first, *others in rows:
        cells = "".join(f"<td{style(i)}>{safe(each)}</td>" for i, each in enumerate(others, 1))
        yield f'<tr><th scope="row">{safe(first)}</th>{cells}</tr>'
    yield "</tbody></table></div>"
