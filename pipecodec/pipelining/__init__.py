"""Pipeline stages on torch.distributed.pipelining; torch's part is imported when one is built."""

from __future__ import annotations

from ..engine.failure import RemoteError
from .build import build_stage
from .clipping import clip_grad_norm_
from .inputs import per_sample, whole
from .loss import loss
from .model_state import load_model_state_dict, model_state_dict
from .steps import reset, sum_tied_gradients

__all__ = [
    "RemoteError",
    "build_stage",
    "clip_grad_norm_",
    "load_model_state_dict",
    "loss",
    "model_state_dict",
    "per_sample",
    "reset",
    "sum_tied_gradients",
    "whole",
]
