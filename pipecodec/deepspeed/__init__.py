"""Pipeline stages on DeepSpeed's engine; deepspeed itself is imported when an engine is set up."""

from __future__ import annotations

from ..engine.failure import RemoteError
from ..engine.ties import analyze_tie_ranks
from .checkpoint_recut import load_checkpoint
from .engine import deepspeed_pipe_engine, pipeline_module
from .model_state import checkpoint_state_dict, load_model_state_dict, model_state_dict
from .setup import initialize
from .wrapper import DeepSpeedPipeStageWrapper

__all__ = [
    "DeepSpeedPipeStageWrapper",
    "RemoteError",
    "analyze_tie_ranks",
    "checkpoint_state_dict",
    "deepspeed_pipe_engine",
    "initialize",
    "load_checkpoint",
    "load_model_state_dict",
    "model_state_dict",
    "pipeline_module",
]
