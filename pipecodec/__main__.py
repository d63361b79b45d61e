"""``python -m pipecodec``: the command ``pipecodec``."""

from __future__ import annotations

from pipecodec.cli import main

if __name__ == "__main__":
    main()
