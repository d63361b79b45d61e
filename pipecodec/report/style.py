"""The style of a report's page, light and dark."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --back: #ffffff; --text: #1c2330; --soft: #5a6578; --line: #d5dbe5; --panel: #f5f7fa;
  --box: #eef3fb; --edge: #4a78c4; --bar: #4a78c4; --rail: #d3dff0; --flow: #4a78c4;
  --skip: #8a5cc2; --wrong: #b3261e; --wrong-back: #fdecea; --doubt: #855c00;
  --doubt-back: #fff5dc; --fine: #1b7a43;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14181f; --text: #e4e8ef; --soft: #a3aebf; --line: #333c4a; --panel: #1b212a;
    --box: #1d2a3f; --edge: #6f9fe8; --bar: #6f9fe8; --rail: #2f3e57; --flow: #6f9fe8;
    --skip: #bd97ec; --wrong: #ff9189; --wrong-back: #3a1f1e; --doubt: #f0c35c;
    --doubt-back: #352b14; --fine: #6ad398;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 72rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 50rem; }
.soft, caption { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; min-width: 40rem; }
caption { text-align: left; padding: .25rem 0 .5rem; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; min-width: 4.5rem; max-width: 24rem; }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
code, tbody th { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
summary { cursor: pointer; padding: .25rem 0; color: var(--edge); }
.verdict { font-size: 1.05rem; font-weight: 600; }
.verdict.fine { color: var(--fine); } .verdict.wrong { color: var(--wrong); }
.verdict.doubtful { color: var(--doubt); }
.finding { border-left: 4px solid; border-radius: 4px; padding: .6rem .9rem; margin: .6rem 0;
  overflow-wrap: anywhere; }
.finding p { margin: .15rem 0; max-width: none; }
.finding.wrong { border-color: var(--wrong); background: var(--wrong-back); }
.finding.doubtful { border-color: var(--doubt); background: var(--doubt-back); }
.picture { display: block; font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas,
  "DejaVu Sans Mono", "Liberation Mono", monospace; fill: var(--text); }
.picture .box { fill: var(--box); stroke: var(--edge); stroke-width: 1.5; }
.picture .wrong .box { fill: var(--wrong-back); stroke: var(--wrong); stroke-width: 2; }
.picture .doubtful .box { stroke: var(--doubt); }
.picture .name { font-weight: 700; }
.picture .fact { fill: var(--soft); }
.picture .told { text-anchor: end; fill: var(--doubt); }
.picture .wrong .told { fill: var(--wrong); }
.picture .sum { font-weight: 700; }
.picture .rail { fill: var(--rail); } .picture .bar { fill: var(--bar); }
.picture .flow { stroke: var(--flow); stroke-width: 3; fill: none; }
.picture .around { stroke: var(--skip); stroke-width: 1.5; fill: none; }
.picture .head-flow { fill: var(--flow); } .picture .head-skip { fill: var(--skip); }
.picture .tag { fill: var(--back); stroke: var(--skip); }
.picture .mark { fill: var(--skip); text-anchor: middle; dominant-baseline: central; }
@media print { details { display: block; } body { max-width: none; } }
"""
