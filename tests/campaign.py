"""Millions of changed frames: each must be refused, also by a codec that knows the frame.

python -m tests.campaign --count 10000000 --seed 1
python -m tests.campaign --resealed 1000000    changes behind a right checksum
python -m tests.campaign --trips 1000000       round trips and errors: memory must not grow
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import gc
import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipecodec import FrameError
from tests.corpus import same
from tests.resealing import change_and_reseal
from tests.targets import Counts, Target, targets

__all__ = ["change_frames", "round_trips"]


def expect_refusal(target: Target, frame: torch.Tensor, counts: Counts, change: str) -> None:
    """Count the outcomes of reading: "refused" is right, any other is printed."""
    for read in target.readers:
        try:
            read((*target.slots, frame))
        except FrameError:
            counts["refused"] += 1
        except Exception as error:
            counts["other errors"] += 1
            print(f"{target.name}, {change}: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            counts["wrong values"] += 1
            print(f"{target.name}, {change}: a value", file=sys.stderr)


def flip(target: Target, bits: Sequence[int], counts: Counts) -> None:
    """Flip one bit after the other and put it back; ``bits`` index the frame with its padding."""
    view, frame = memoryview(target.bytes), target.frame
    for bit in bits:
        view[bit >> 3] ^= 1 << (bit & 7)
        expect_refusal(target, frame, counts, f"bit {bit}")
        view[bit >> 3] ^= 1 << (bit & 7)
    counts["flips"] += len(bits)


def truncate(target: Target, lengths: Sequence[int], counts: Counts) -> None:
    """Cut the frame: if only padding is lost, the value stays."""
    for length in lengths:
        frame = target.frame[:length]
        if length < target.used:
            expect_refusal(target, frame, counts, f"cut to {length}")
            counts["truncations"] += 1
        elif length % 16 == 0:  # a value is compared at some places only
            assert same(target.readers[-1]((*target.slots, frame)), target.value)
            counts["cut padding"] += 1


def spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Join bytes of two frames, or remove, repeat, zero or exchange bytes of one."""
    a, b = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:a] + other[a:]
    if kind == 1:
        return data[:a] + data[b:]
    if kind == 2:
        return data[:b] + data[a:]
    if kind == 3:
        return data[:a] + bytes(b - a) + data[b:]
    return data[:a] + data[b : b + 8] + data[a + 8 : b] + data[a : a + 8] + data[b + 8 :]


def splice(target: Target, known: dict[bytes, Target], count: int, rng: random.Random) -> Counts:
    """Make larger changes; otherwise as ``flip``."""
    counts: Counts = collections.Counter()
    others = list(known)
    for _ in range(count):
        changed = spliced(target.data, rng.choice(others), rng)
        used = int.from_bytes(changed[8:16], "little")
        if changed[:used] in known and not any(changed[used:]):
            continue  # another valid frame, or changed in its padding only
        frame = torch.from_numpy(np.frombuffer(bytearray(changed), np.uint8))
        expect_refusal(target, frame, counts, f"spliced to {changed[: used + 1].hex()}")
        counts["splices"] += 1
    return counts


def change_frames(count: int, seed: int) -> Counts:
    """Try ``count`` changed frames: four in five with a bit flipped, the others cut or spliced."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    all_targets = targets()
    known = {target.data[: target.used]: target for target in all_targets}
    counts: Counts = collections.Counter()
    batch = max(10, min(5000, count // len(all_targets)))
    while sum(counts[kind] for kind in ("flips", "truncations", "splices")) < count:
        target = rng.choice(all_targets)
        if rng.random() < 0.5:  # the codec knows its frame, but read another one last
            another = rng.choice([t for t in all_targets if type(t.codec) is type(target.codec)])
            target.codec.unpack((*another.slots, another.frame))
        tenth, size = batch // 10, len(target.data)
        flip(target, numbers.integers(0, size * 8, 4 * tenth).tolist(), counts)
        flip(target, numbers.integers(0, target.used * 8, 4 * tenth).tolist(), counts)
        truncate(target, numbers.integers(0, size, tenth).tolist(), counts)
        counts += splice(target, known, tenth, rng)
        target.check()
    return counts


def resident() -> int:
    """Return this process's memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def round_trips(count: int, seed: int) -> list[int]:
    """Pack and unpack ``count`` times, with a refusal every third time; note the memory ten times.

    The memory is this process's, in bytes; it is printed as well as returned.
    """
    rng = random.Random(seed)
    all_targets = targets()
    sizes = []
    for i in range(1, count + 1):
        target = all_targets[i % len(all_targets)]
        packed = target.codec.pack(target.value)
        for read in target.readers:
            read(packed)
        if i % 3 == 0:
            flip(target, [rng.randrange(target.used * 8)], collections.Counter())
        if i % (count // 10) == 0:
            gc.collect()
            sizes.append(resident())
            print(f"{i:>9} round trips: {sizes[-1] / 1e6:.1f} MB", flush=True)
    return sizes


def main() -> None:
    """Run the campaigns that the command line asks for; exit with status 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=0, help="changed frames")
    parser.add_argument("--resealed", type=int, default=0, help="changed, with a right checksum")
    parser.add_argument("--trips", type=int, default=0, help="round trips, measuring memory")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    faulthandler.enable()
    print(f"seed {options.seed}", flush=True)
    counts: Counts = collections.Counter()
    begin = time.perf_counter()
    counts += change_frames(options.count, options.seed)
    counts += change_and_reseal(options.resealed, options.seed)
    if options.trips:
        round_trips(options.trips, options.seed)
    print(f"{time.perf_counter() - begin:.0f} s: {dict(counts)}")
    print(f"wrong values: {counts['wrong values']}, other errors: {counts['other errors']}")
    sys.exit(counts["wrong values"] + counts["other errors"] > 0)


if __name__ == "__main__":
    main()
