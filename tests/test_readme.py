"""The README's code runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

README = Path(__file__).parents[1] / "README.md"


def test_code_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, README.name, "exec"), names)
    assert names["out"].shape == (2, 8)
    assert names["value"]["step"] == 7
    first, middle, last = names["stages"]
    mask = torch.arange(8) < torch.tensor([[3], [5]])
    hidden = torch.nn.Linear.forward(middle, torch.nn.Linear.forward(first, torch.ones(2, 8)))
    plain = torch.nn.Linear.forward(last, hidden.tanh()) * mask * 0.5
    assert torch.equal(names["out"], plain)
