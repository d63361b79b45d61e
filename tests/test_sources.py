"""The extension uses no iostreams and no locales, in its sources and as it is built.

Where a compiler links the C++ runtime statically there are two copies of it in a process, and a
number written to a stream of one ran into the locale of the other: the process died where an error
message was to be made.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pipecodec._C

CSRC = Path(__file__).resolve().parents[1] / "csrc"
STREAMS = re.compile(
    r"#include <(iostream|sstream|fstream|iomanip|ostream|istream|locale)>|std::o?stringstream"
)

IN_STREAMS = re.compile(
    r"std::(__cxx11::)?(basic_[a-z]*(stream|streambuf|stringbuf|filebuf)|ios_base|basic_ios|locale|c(out|err|log)\b)"
    r"|std::__ostream|std::(use|has)_facet|ctype<"
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


def test_the_extension_calls_no_stream_and_no_locale() -> None:
    """Headers of torch include <iostream>, which starts the streams; nothing more is allowed."""
    listing = subprocess.run(
        ["nm", "--dynamic", "--demangle", pipecodec._C.__file__],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "PyInit__C" in listing
    calls = [line.split(maxsplit=1)[-1] for line in listing.splitlines() if IN_STREAMS.search(line)]
    assert {call for call in calls if "std::ios_base::Init::" not in call} == set()
