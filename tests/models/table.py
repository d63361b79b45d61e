"""Writes docs/models.md of the outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
import transformers

from .check import DROPOUT, ROUNDED, STAGES, TRAINING_ONLY, WITH_EXAMPLES, Outcome
from .crossing import SIZE, Crossing

__all__ = ["page"]

Type = tuple[str, str]

HEAD = """# Models that are cut

`python -m tests.models --write` writes this page, with transformers {transformers} and torch
{torch}. It builds a small random model of each type, cuts it in {stages} stages with
`pipecodec.partition`, and compares the stages with the model: the output's type and structure,
every tensor in it, and the gradients of all parameters, bit for bit; in training (with dropout
{dropout}) and in evaluation, two batch sizes and lengths, with and without padding; once in one
graph, and once over detached boundaries, with backward stage by stage, as on an engine. Types and
classes are those of transformers' own mappings.

*Right*: equal in all of these. Types with an asterisk need a batch of each kind in `examples=`.
With a dagger, some gradients over detached boundaries differ from the model's by rounding (1e-6 of
the largest gradient), since sums have another order: a weight is used on several stages and three
times or more, or a tensor arrives with other strides, as one with gaps in its memory, or a gradient
whose value has others. With a double dagger: in training, since the model itself cannot be
differentiated, or not twice, in evaluation.
*Refused*: `partition` or a stage raised the error that is shown, in at least one of them.
*Not built*: no small model was made, so nothing is known of the type.

Heads that classify sequences have no table here. Two are tried by `tests/test_partition_models.py`
and right: `BertForSequenceClassification` and `LlamaForSequenceClassification`.
"""

SECTION = """
## Values that cross the middle

At the second cut of four, batch {batch}, length {length}, float32; `+g`: with a gradient. A naive
wrapper sends the hidden states and every keyword argument that the first layer is called with,
from stage to stage; that is also not enough where later layers are called with other values.
Labels are among these values; on DeepSpeed's engine the last stage takes them
from its own batches.

| model | values that cross | bytes | naive |
|---|---|---|---|
"""


def page(outcomes: Mapping[Type, Outcome], crossings: Mapping[Type, Crossing]) -> str:
    """Return the page's text; both mappings have the (mapping, model type) pairs in order."""
    mappings = list(dict.fromkeys(mapping for mapping, _ in outcomes))
    verdicts = ["right", "refused", "WRONG", "ended", "not built"]
    verdicts = [name for name in verdicts if any(o.verdict == name for o in outcomes.values())]
    text = HEAD.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        stages=STAGES,
        dropout=DROPOUT,
    )
    text += f"\n| mapping | types | {' | '.join(verdicts)} |\n{'|---' * (2 + len(verdicts))}|\n"
    for mapping in mappings:
        counts = Counter(o.verdict for (name, _), o in outcomes.items() if name == mapping)
        numbers = [sum(counts.values()), *(counts[verdict] for verdict in verdicts)]
        text += f"| {mapping} | {' | '.join(map(str, numbers))} |\n"
    text += SECTION.format(batch=SIZE[0], length=SIZE[1])
    for (_, name), crossing in crossings.items():
        values = "; ".join(f"`{value}`" for value in crossing.values)
        text += f"| {name} | {values} | {crossing.nbytes} | {crossing.naive} |\n"
    for mapping in mappings:
        text += f"\n## {mapping}\n\n"
        named = {name: o for (where, name), o in outcomes.items() if where == mapping}
        right = [name + marks(o.text) for name, o in named.items() if o.verdict == "right"]
        text += f"Right: {', '.join(right)}.\n"
        others = {name: o for name, o in named.items() if o.verdict != "right"}
        if others:
            text += "\n| type | | |\n|---|---|---|\n"
        for name, outcome in others.items():
            text += f"| {name} | {outcome.verdict} | {cell(outcome.text)} |\n"
    return text


def marks(text: str) -> str:
    """Return the signs for what a text says of a type that is right."""
    signs = {WITH_EXAMPLES: "\\*", ROUNDED: "†", TRAINING_ONLY: "‡"}
    return "".join(sign for said, sign in signs.items() if said in text)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
