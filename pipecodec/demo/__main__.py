"""``python -m pipecodec.demo``: the command ``pipecodec demo``."""

from __future__ import annotations

import sys

from pipecodec.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
