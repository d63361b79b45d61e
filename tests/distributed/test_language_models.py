"""Hugging Face models in hand-made stages: every loss and gradient is that of the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec.demo.launch import Rank

from .engines import Grid, engine_for
from .harness import values

VOCABULARY, STEPS, ACCUMULATE = 256, 3, 4


@dataclass
class Trained:
    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, Any]] = field(default_factory=list)
    """Of each step, as NumPy arrays by parameter name."""


def batches(model: str, step: int) -> Iterator[dict[str, Any]]:
    """Yield micro-batches as a data collator gives them, with padding."""
    for index in range(ACCUMULATE):
        random = torch.Generator().manual_seed(100 * step + index)
        ids = torch.randint(2, VOCABULARY, (2, 12), generator=random)
        mask = (torch.arange(12) < torch.tensor([[12 - index], [7]])).long()
        batch = {"input_ids": ids * mask, "attention_mask": mask}
        if model == "t5":
            batch["decoder_input_ids"] = torch.randint(2, VOCABULARY, (2, 9), generator=random)
        shape = (2, 9) if model == "t5" else (2, 12)
        labels = torch.randint(2, VOCABULARY, shape, generator=random)
        labels[:, -2:] = -100
        yield {**batch, "labels": labels}


def build(name: str, stages: int) -> tuple[nn.Module, list[nn.Module], Any]:
    """Return the whole model, its stages, and the loss as a function of logits and labels."""
    if name == "t5":
        from .t5 import build_t5, t5_stages

        model = build_t5(VOCABULARY)
        return model, t5_stages(model, stages), t5_loss
    from pipecodec.demo.by_hand import causal_lm_loss, cut_into_stages
    from pipecodec.demo.models import build_model

    model = build_model(name, attention="eager")
    return model, cut_into_stages(model, stages), causal_lm_loss


def t5_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.view(-1, VOCABULARY), labels.view(-1))


def optimizer_of(parameters: list[nn.Parameter], names: dict[Any, str], trained: Trained) -> Any:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def note(*_: Any) -> None:
        own = {names[p]: p.grad.numpy().copy() for p in parameters if p in names}
        trained.gradients.append(own)

    optimizer.register_step_pre_hook(note)
    return optimizer


def train_stages(rank: Rank, name: str) -> Trained:
    model, stages, loss_fn = build(name, rank.world)
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = Trained()
    inputs = ["input_ids", "attention_mask"] + ["decoder_input_ids"] * (name == "t5")
    engine = engine_for(
        stages,
        Grid(rank.world),
        inputs=inputs,
        loss_fn=loss_fn,
        optimizer=lambda parameters: optimizer_of(parameters, names, trained),
        config={"gradient_accumulation_steps": ACCUMULATE},
    )
    for step in range(STEPS):
        trained.losses.append(engine.train_batch(batches(name, step)).item())
    return trained


def train_whole(rank: Rank, name: str) -> Trained:
    """Train the unsplit model with the loss that it computes itself."""
    model, _, _ = build(name, 3)
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = Trained()
    optimizer = optimizer_of(list(model.parameters()), names, trained)
    for step in range(STEPS):
        losses = [model(**batch).loss for batch in batches(name, step)]
        for loss in losses:
            (loss / ACCUMULATE).backward()
        optimizer.step()
        optimizer.zero_grad()
        trained.losses.append((sum(loss.detach() for loss in losses) / ACCUMULATE).item())
    return trained


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_losses_and_gradients_are_those_of_the_whole_model(name: str) -> None:
    (whole,) = values(train_whole, 1, name)
    assert len(whole.gradients) == STEPS
    for stages in (3, 4):
        pipeline = values(train_stages, stages, name)
        for stage in pipeline:
            assert stage.losses == whole.losses
        for step, expected in enumerate(whole.gradients):
            together = {k: g for stage in pipeline for k, g in stage.gradients[step].items()}
            assert together.keys() == expected.keys()
            different = [k for k, g in together.items() if g.tobytes() != expected[k].tobytes()]
            assert not different
