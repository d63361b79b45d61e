"""Imported once by the server that the demo's processes are forked from; importing it has effects.

It pins the processes to one type of device (that in PIPECODEC_DEVICE, else the CPU) and to one
thread each before torch and DeepSpeed read the environment, and it keeps DeepSpeed from compiling
its shared-memory operator (minutes of compiling for an operator that only its inference engine
uses).
"""

from __future__ import annotations

import contextlib
import os

os.environ.update(
    DS_ACCELERATOR=os.environ.get("PIPECODEC_DEVICE", "cpu"),
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
    TRANSFORMERS_NO_ADVISORY_WARNINGS="1",
)

# The first torch optimizer would import torch._dynamo in every process.
import torch._dynamo  # noqa: F401

with contextlib.suppress(ImportError):  # torch's own schedules do without it
    import deepspeed
    import deepspeed.ops

    import pipecodec.deepspeed

    deepspeed.ops.__compatible_ops__ = {}

with contextlib.suppress(ImportError):
    import pipecodec.demo.models  # noqa: F401

__all__: list[str] = []
