"""The same training twice: in N processes on a pipeline's engine, and in one process.

Both functions run in processes of their own (:mod:`pipecodec.demo.launch`) and import DeepSpeed
and transformers themselves: the process that starts them needs neither.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipecodec.demo.crossing import Crossing
from pipecodec.demo.data import MicroBatch, micro_batch, standard_library_text
from pipecodec.demo.launch import Rank

if TYPE_CHECKING:
    from pipecodec.demo.settings import Settings
    from pipecodec.demo.training import Training

__all__ = ["Progress", "Trained", "train_pipeline", "train_whole"]


@dataclass(frozen=True)
class Progress:
    """One step, numbered from 0: its loss and how many bytes of text went through a second."""

    step: int
    loss: float
    tokens_per_second: float


@dataclass
class Trained:
    """The result of one process: each step's loss, its share of the weights, the tensors it sent.

    ``weights`` maps the unsplit model's parameter names to NumPy arrays.
    """

    losses: list[float]
    weights: dict[str, Any]
    crossing: Crossing = field(default_factory=Crossing)


def train_pipeline(rank: Rank, settings: Settings) -> Trained:
    """Train stage ``rank.rank`` of the model on the chosen engine; rank 0 tells the progress."""
    from pipecodec.demo.models import build_model

    model = build_model(settings.model, attention=settings.attention, tied=settings.tied)
    names = {parameter: name for name, parameter in model.named_parameters()}
    text = standard_library_text()
    engine = importlib.import_module(f"pipecodec.demo.on_{settings.engine}")
    training: Training = engine.begin(rank, settings, model, _micro_batches(settings, text, 0)[0])
    losses = []
    for step in range(settings.steps):
        began = time.perf_counter()
        batch = _micro_batches(settings, text, step)
        losses.append(training.step(batch))
        if rank.rank == 0:
            rank.say(_progress(step, losses[-1], batch, began))
    training.finish()
    here = ((names[p], p) for p in training.module.parameters() if p in names)
    return Trained(losses, _arrays(here), training.crossing)


def train_whole(rank: Rank, settings: Settings) -> Trained:
    """Train the unsplit Hugging Face model in this process, with the loss it computes itself."""
    from pipecodec.demo.models import build_model

    model = build_model(settings.model, attention=settings.attention, tied=settings.tied)
    model.to(rank.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    text = standard_library_text()
    losses = []
    for step in range(settings.steps):
        began = time.perf_counter()
        batch = _micro_batches(settings, text, step)
        total = torch.zeros((), device=rank.device)
        for inputs in batch:
            here = {name: value.to(rank.device) for name, value in inputs._asdict().items()}
            loss = model(**here).loss
            (loss / settings.micro_batches).backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((total / settings.micro_batches).item())
        rank.say(_progress(step, losses[-1], batch, began))
    return Trained(losses, _arrays(model.named_parameters()))


def _micro_batches(settings: Settings, text: bytes, step: int) -> list[MicroBatch]:
    first = step * settings.micro_batches
    return [
        micro_batch(text, index, batch=settings.batch, length=settings.length)
        for index in range(first, first + settings.micro_batches)
    ]


def _progress(step: int, loss: float, batch: list[MicroBatch], began: float) -> Progress:
    tokens = sum(int(part.attention_mask.sum()) for part in batch)
    return Progress(step, loss, tokens / (time.perf_counter() - began))


def _arrays(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Any]:
    return {name: parameter.detach().cpu().numpy() for name, parameter in parameters}
