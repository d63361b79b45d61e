"""Measures frames with a right checksum that are made to cost as much as they can.

``python -m tests.hostile BYTES`` reads each of about that size in a process of its own and prints a
line of JSON: its name and size, how ``unpack`` and ``describe`` ended, and by how many bytes each
raised the process's memory at most.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipecodec import Codec, CodecError, describe, pack, unpack
from tests import oracle

__all__ = ["frames", "wrong"]

NONE, LIST, TUPLE, SET, FROZEN_SET, DICT, SLICE = b"\2", b"\3", b"\4", b"\x15", b"\x16", b"\x11", 29
CPU_SECONDS = 20  # for one frame: quadratic work would take hours


def many(container: bytes, node: bytes, size: int) -> bytes:
    """As many times the node as fit."""
    return container + oracle.varint(size // len(node)) + node * (size // len(node))


def nested(node: bytes, depth: int, innermost: bytes) -> bytes:
    return node * depth + innermost


def key(value: Any) -> bytes:
    return oracle.Encoder().node(value, constant=True)


def seal(structure: bytes, shapes: bytes = b"", leaves: int = 0) -> bytes:
    return oracle.seal(structure, shapes, b"", b"", leaves)


def frames(size: int) -> dict[str, bytes]:
    """Frames of about ``size`` bytes."""
    name = oracle.text("tests.corpus:" + size * "x")
    dotted = oracle.text("tests.corpus:Outer" + ".Inner" * (size // 6))
    number = bytes([12]) + oracle.raw(size * b"\1")
    long_key = many(TUPLE, NONE, size // 2)
    empty = {
        f"empty {kind}s": seal(many(LIST, node, size))
        for kind, node in {
            "tuple": b"\4\0",
            "list": b"\3\0",
            "dict": b"\x11\0",
            "OrderedDict": b"\x12\0",
            "defaultdict": b"\x13\0\0",
            "deque": b"\x14\0\0",
            "set": b"\x15\0",
            "frozenset": b"\x16\0",
            "Size": b"\x1a\0",
            "str": b"\x0f\0",
            "slice": b"\x1d\2\2\2",
        }.items()
    }
    return {
        "a huge count": seal(LIST + oracle.varint(2**63)),
        "a huge count of pairs": seal(DICT + oracle.varint(2**63 + 1)),
        "a huge maxlen": seal(b"\x14" + oracle.varint(2**62) + b"\0"),
        "a maxlen too large": seal(b"\x14" + oracle.varint(2**64 - 1) + b"\0"),
        "None": seal(many(LIST, NONE, size)),
        **empty,
        "deep lists": seal(nested(b"\3\1", 1000, NONE)),
        "lists too deep": seal(nested(b"\3\1", size // 2, NONE)),
        "deep constants": seal(bytes([SLICE]) + NONE * 2 + nested(b"\4\1", 999, NONE)),
        "deep frozensets": seal(SET + b"\1" + nested(b"\x16\1", 999, NONE)),
        "deep wide constants": seal(
            SET + b"\1" + nested(b"\4\1", 998, many(TUPLE, NONE, size // 2))
        ),
        "deep long keys": seal(
            nested(DICT + b"\1" + key(size // 500 * "k"), 500, many(LIST, NONE, size // 2))
        ),
        "int keys": seal(
            DICT + oracle.varint(size // 6) + b"".join(key(i) + NONE for i in range(size // 6))
        ),
        "str items": seal(
            SET + oracle.varint(size // 8) + b"".join(key(f"{i:06}") for i in range(size // 8))
        ),
        "keys of one hash": seal(
            DICT
            + oracle.varint(size // 12)
            + b"".join(key(i * (2**61 - 1)) + NONE for i in range(1, size // 12 + 1))
        ),
        "a long namedtuple's name": seal(bytes([23]) + name + b"\0"),
        "a long dataclass's name": seal(bytes([24]) + name + b"\0"),
        "a long name in parts": seal(bytes([23]) + dotted + b"\0"),
        "a long factory's name": seal(bytes([19]) + name + b"\0"),
        "a long enum member": seal(bytes([25]) + oracle.text("tests.corpus:Colour") + name),
        "a long registered name": seal(bytes([31]) + name + b"\1" + NONE),
        "a long device": seal(bytes([28]) + name),
        "a long device index": seal(bytes([28]) + oracle.text("cuda:" + size * "9")),
        "a long str": seal(bytes([15]) + oracle.text(size * "é")),
        "a long bytes": seal(bytes([16]) + oracle.raw(size * b"\0")),
        "a long int": seal(number),
        "a long int as a key": seal(DICT + b"\1" + number + NONE),
        "a range of long ints": seal(
            bytes([30]) + key(0) + number + bytes([12]) + oracle.raw(size // 2 * b"\1")
        ),
        "a long key above many rows": seal(DICT + b"\1" + long_key + many(LIST, NONE, size // 2)),
        "a long key above many leaves": seal(
            DICT + b"\1" + long_key + many(LIST, b"\0\6\0\0", size // 2), leaves=size // 8
        ),
        "many leaves in the frame": seal(
            many(LIST, b"\0\6\3\1", size), size // 4 * b"\0", size // 4
        ),
        "many aliases": seal(
            LIST + oracle.varint(size // 2) + b"\0\6\0\0" + (size // 2 - 1) * b"\5\0", leaves=1
        ),
        "many dimensions": seal(b"\0\6\0" + oracle.varint(size), size * b"\1", 1),
        "a large tensor": seal(b"\0\6\0\1", oracle.varint(2**60), 1),
    }


def changed(frame: bytes, at: int, byte: int, sealed: bool = False) -> bytes:
    """A frame with another byte, and with a checksum that says so if ``sealed``."""
    made = bytearray(frame)
    made[at] = byte
    if sealed:
        rest = oracle.xxh64(bytes(made[48:])).to_bytes(8, "little")
        made[40:48] = oracle.xxh64(bytes(made[:40]) + rest).to_bytes(8, "little")
    return bytes(made)


def wrong() -> dict[str, tuple[bytes, int]]:
    """A frame for each reason to refuse one, and the byte where that is seen."""
    right = seal(LIST + b"\2" + NONE * 2)
    return {
        "truncated": (right[:47], 47),
        "magic": (changed(right, 3, ord("X")), 0),
        "version": (changed(right, 4, 1), 4),
        "flags": (changed(right, 7, 1, sealed=True), 6),
        "length": (changed(right, 18, 1, sealed=True), 16),
        "checksum": (changed(right, 49, 3), 40),
        "padding": (right + b"\0\1", len(right) + 1),
        "structure_hash": (changed(right, 32, right[32] ^ 1, sealed=True), 32),
        "varint": (seal(LIST + b"\x82\0" + NONE * 2), 49),
        "unknown_code": (seal(LIST + b"\1" + bytes([32])), 50),
        "misplaced_code": (seal(LIST + b"\1" + key(1)), 50),
        "unknown_dtype": (seal(bytes([27, 99])), 49),
        "tensor_flags": (seal(b"\0\6\x20\0", leaves=1), 50),
        "shape": (seal(b"\0\6\0\1", oracle.varint(2**62), 1), 49),
        "count": (seal(LIST + b"\5" + NONE), 49),
        "alias_index": (seal(LIST + b"\1\5\0"), 50),
        "text": (seal(b"\x0f\2\xc0\x80"), 49),
        "unknown_type": (seal(bytes([23]) + oracle.text("tests.corpus:Nothing") + b"\0"), 48),
        "rejected": (seal(LIST + b"\1" + DICT + b"\2" + (key(1) + NONE) * 2), 50),
        "depth": (seal(nested(b"\3\1", 1001, NONE)), 48 + 2 * 1000),
        "trailing": (seal(NONE * 2), 49),
    }


def peak() -> int:
    """The most memory that this process has had since ``forget_peak``, in bytes."""
    line = next(x for x in Path("/proc/self/status").read_text().split("\n") if "VmHWM" in x)
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(action: Callable[[], Any]) -> tuple[str, int]:
    """How it ended, and by how much it raised the process's memory at most."""
    forget_peak()
    before = peak()
    try:
        action()
        ended = "value"
    except CodecError as error:
        ended = f"{type(error).__name__}: {str(error)[:80]}"
    return ended, peak() - before


def read(frame: torch.Tensor) -> dict[str, tuple[str, int]]:
    """Read a frame in all ways, beside as many wrong tensors as it may want."""
    codec = Codec()
    wanted = int.from_bytes(frame[28:32].tolist(), "little")
    packed = (*[torch.ones(2)] * wanted, frame)
    return {
        "unpack": measure(lambda: unpack(packed)),
        "codec": measure(lambda: (codec.unpack(packed), codec.unpack(packed))),
        "describe": measure(lambda: describe(frame)),
    }


def warm_up() -> None:
    """Map the process's libraries into memory: by one value, and one error of torch's own."""
    read(pack({"a": [1]})[-1])
    read(torch.tensor(list(seal(bytes([28]) + oracle.text("nowhere"))), dtype=torch.uint8))


def main() -> None:
    """Each frame in a process of its own, so that none leaves memory to the next."""
    for name, data in frames(int(sys.argv[1])).items():
        frame = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            warm_up()
            result = read(frame)
            print(json.dumps({"name": name, "bytes": len(data), **result}), flush=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            print(json.dumps({"name": name, "bytes": len(data), "died": status}), flush=True)


if __name__ == "__main__":
    main()
