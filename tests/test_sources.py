"""The extension's own sources use no iostreams and no locales.

Where a compiler links the C++ runtime statically there are two copies of it in a process, and a
number written to a stream of one ran into the locale of the other: the process died where an error
message was to be made.
"""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
STREAMS = re.compile(
    r"#include <(iostream|sstream|fstream|iomanip|ostream|istream|locale)>|std::o?stringstream"
)


def test_no_streams_and_no_locales() -> None:
    layers = [path for path in CSRC.iterdir() if path.name not in ("fuzz", "tests")]
    sources = [
        path
        for layer in layers
        for path in ([layer] if layer.is_file() else sorted(layer.rglob("*.*")))
    ]
    assert len(sources) > 50
    assert [path.name for path in sources if STREAMS.search(path.read_text())] == []
