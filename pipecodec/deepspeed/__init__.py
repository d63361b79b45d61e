"""Pipeline stages on DeepSpeed's engine; deepspeed itself is imported when an engine is set up."""

from __future__ import annotations

from .engine import deepspeed_pipe_engine, pipeline_module
from .failure import RemoteError
from .setup import initialize
from .ties import analyze_tie_ranks
from .wrapper import DeepSpeedPipeStageWrapper

__all__ = [
    "DeepSpeedPipeStageWrapper",
    "RemoteError",
    "analyze_tie_ranks",
    "deepspeed_pipe_engine",
    "initialize",
    "pipeline_module",
]
