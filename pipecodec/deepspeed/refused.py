"""Settings of DeepSpeed's with which its pipeline engine fails late, or trains something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["refuse_settings"]

_OFFLOAD = "is not covered on the pipeline engine, which reduces gradients by itself; leave it out"
_MASTERS = "needs ZeRO's offloading, which is not covered on the pipeline engine; leave it out"

_REFUSED = {
    "fp16.auto_cast": (
        "casts every floating-point tensor that enters a stage to half precision, and with it the "
        "bytes of all values between stages; set it to false"
    ),
    "has_bool_tensors": (
        "casts the last tensor of every message to half precision and back, and with it the frame; "
        "leave it out, bool tensors cross without it"
    ),
    "zero_optimization.offload_optimizer": _OFFLOAD,
    "zero_optimization.offload_param": _OFFLOAD,
    "zero_optimization.cpu_offload": _OFFLOAD,
    "zero_optimization.zenflow": _OFFLOAD,
    "zero_optimization.round_robin_gradients": (
        "reorders master weights, which DeepSpeed then looks for in the old order when they are "
        "read or loaded; leave it out"
    ),
    "fp16.fp16_master_weights_and_grads": _MASTERS,
    "bf16.bf16_master_weights_and_grads": _MASTERS,
    "bfloat16.bf16_master_weights_and_grads": _MASTERS,
    "optimizer.legacy_fusion": (
        "finds the norm of all gradients without regard to stages and tied weights; leave it out"
    ),
    "torch_autocast.enabled": (
        "lets stages scale losses and skip steps each for itself; use fp16 or bf16 instead"
    ),
    "data_efficiency.enabled": (
        "changes batches and layers in ways that the stages do not know of; leave it out"
    ),
}


def refuse_settings(settings: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a setting that the pipeline engine does not get right."""
    for path, reason in _REFUSED.items():
        value: Any = settings
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value and not (isinstance(value, Mapping) and value.get("device") == "none"):
            raise ValueError(f"DeepSpeed's setting {path} {reason}")
    zero = settings.get("zero_optimization") or {}
    if isinstance(zero, Mapping) and int(zero.get("stage", 0)) > 1:
        raise ValueError(
            f"DeepSpeed's setting zero_optimization.stage is {zero['stage']}, and its pipeline "
            "engine works with 0 and 1"
        )
