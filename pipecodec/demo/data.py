"""Byte-level training text that is on every machine: the source of the Python standard library."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = ["IGNORE", "VOCABULARY", "MicroBatch", "micro_batch", "standard_library_text"]

VOCABULARY = 256
"""One token per byte value."""

IGNORE = -100
"""The label that ``torch.nn.functional.cross_entropy`` leaves out of the mean."""

_PAD = 0


class MicroBatch(NamedTuple):
    """``batch`` windows of text padded on the right; every field is int64 ``[batch, length]``."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def standard_library_text(limit: int = 4_000_000) -> bytes:
    """Return up to ``limit`` bytes of the library's top-level modules, in the order of their names.

    Raises ``FileNotFoundError`` if this Python was installed without the library's source text.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    text = bytearray()
    for path in sorted(folder.glob("*.py")):
        text += path.read_bytes()
        if len(text) >= limit:
            break
    if not text:
        raise FileNotFoundError(
            f"no .py file in {folder}: this Python has no source text of its standard library; "
            "run the demo with one that has"
        )
    return bytes(text[:limit])


def micro_batch(text: bytes, index: int, *, batch: int, length: int) -> MicroBatch:
    """Cut micro-batch number ``index`` out of ``text``, the same one in every process.

    Windows are ``length // 2`` to ``length - 1`` bytes long, so each row has padding: a row mask
    of ones alone would make Hugging Face leave the attention mask out.
    """
    choose = random.Random(f"micro-batch {index}")
    input_ids = torch.full((batch, length), _PAD)
    attention_mask = torch.zeros((batch, length), dtype=torch.int64)
    for row in range(batch):
        size = choose.randint(length // 2, length - 1)
        start = choose.randrange(len(text) - size)
        input_ids[row, :size] = torch.tensor(list(text[start : start + size]))
        attention_mask[row, :size] = 1
    return MicroBatch(input_ids, attention_mask, input_ids.masked_fill(attention_mask == 0, IGNORE))
