"""Settings of the demo's training, in a module that imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BLOCKS", "ENGINES", "TITLES", "Settings"]

BLOCKS = 6
"""Transformer blocks of either model, and so the largest number of stages."""

TITLES = {"gpt2": "GPT-2", "llama": "Llama"}
"""The models by the names that the command line takes."""

ENGINES = {"deepspeed": "DeepSpeed's pipeline", "torch": "torch's 1F1B schedule"}
"""The engines by the names that the command line takes."""


@dataclass(frozen=True)
class Settings:
    """One training; ``micro_batches`` of ``batch`` windows padded to ``length`` make a step.

    ``model`` is a key of ``TITLES``; ``attention`` is Hugging Face's name of an implementation;
    ``tied`` makes the token embedding and the output head one weight; ``by_hand`` takes stages that
    were made by hand instead of those of ``pipecodec.partition``; ``device`` is one of
    ``pipecodec.demo.device.DEVICES``; ``engine`` is a key of ``ENGINES``.
    """

    model: str = "gpt2"
    stages: int = 3
    steps: int = 40
    attention: str = "sdpa"
    tied: bool = False
    by_hand: bool = False
    device: str = "auto"
    engine: str = "deepspeed"
    batch: int = 8
    length: int = 128
    micro_batches: int = 4
    learning_rate: float = 3e-3
