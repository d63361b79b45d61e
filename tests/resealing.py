"""Random changes behind a right checksum, such as a hostile sender can make."""

from __future__ import annotations

import collections
import random
import re
import sys
from typing import Any

import torch

from pipecodec import Codec, CodecError, FrameError
from pipecodec.describe import Leaf, describe, leaves
from tests import oracle
from tests.targets import Counts, Target, targets

__all__ = ["change_and_reseal"]


def slot_for(leaf: Leaf) -> torch.Tensor:
    """Make a tensor of the leaf's dtype and shape, of any size, in a few bytes of memory."""
    if leaf.dtype.startswith(("q", "bits")):
        raise FrameError("torch makes no tensor of this dtype here")
    one = torch.empty((), dtype=getattr(torch, leaf.dtype))
    if leaf.shape is None:
        try:
            return torch.nested.nested_tensor([one.reshape(1)], layout=torch.jagged)
        except (NotImplementedError, RuntimeError):
            raise FrameError("torch makes no nested tensor of this dtype here") from None
    return one.expand(leaf.shape)


def resealed(target: Target, other: Target, rng: random.Random) -> tuple[torch.Tensor, list[Any]]:
    """Return a frame with one section changed and a right header, and tensors that fit beside it.

    Raises FrameError where no totals in the header make it right.
    """
    sections = target.sections()
    which = rng.choice([0, 0, 0, 0, 1, 2])
    part = bytearray(sections[which])
    for _ in range(rng.randrange(1, 4)):
        a, b = sorted(rng.randrange(len(part) + 1) for _ in range(2))
        part[a : rng.choice([a, a + 1, b])] = rng.choice(
            [b"", bytes([rng.randrange(32)]), rng.randbytes(1), other.sections()[which][a:b][:32]]
        )
    sections[which] = bytes(part)
    count = 0
    for _ in range(4):
        frame = torch.tensor(list(oracle.seal(*sections, count)), dtype=torch.uint8)
        try:
            found = leaves((frame,))
            break
        except FrameError as error:
            wanted = re.search(r"structure has (?:a )?([a-z]*)(?: of)? ?(\d+)", str(error))
            if wanted is None or int(wanted[2]) > 1 << 16:
                raise
            if wanted[1] == "":
                count = int(wanted[2])
            else:
                section = {"values": 2, "payload": 3}[wanted[1]]
                sections[section] = sections[section][: int(wanted[2])].ljust(int(wanted[2]), b"\0")
    beside = [
        slot_for(leaf)
        if leaf.route == "slot"
        else torch.zeros(leaf.nbytes % (1 << 20), dtype=torch.uint8)
        for leaf in found
        if leaf.route in ("slot", "raw slot")
    ]
    if type(target.codec) is not Codec:
        tunnel = sum(-(-leaf.nbytes // 16) * 4 for leaf in found if leaf.route == "tunnel")
        beside.insert(0, torch.zeros(tunnel % (1 << 20) + 4))
    return frame, beside


def change_and_reseal(count: int, seed: int) -> Counts:
    """Read ``count`` frames with a right checksum: each gives a CodecError or a value."""
    rng = random.Random(seed)
    all_targets = targets()
    counts: Counts = collections.Counter()
    for i in range(count):
        target = rng.choice(all_targets)
        try:
            frame, beside = resealed(target, rng.choice(all_targets), rng)
            value = rng.choice(target.readers)((*beside, frame))
            describe(frame)
            repr(type(value))
            counts["values"] += 1
        except CodecError:
            counts["refused"] += 1
        except Exception as error:
            counts["other errors"] += 1
            print(f"seed {seed}, {i}: {type(error).__name__}: {error}", file=sys.stderr)
            print(f"  {bytes(frame.tolist()).hex()}", file=sys.stderr)
    for target in all_targets:
        target.check()
    return counts
