"""Trainings of models whose stages share weights, and the parts that keep copies equal."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import pipecodec.deepspeed
from pipecodec.deepspeed import setup
from pipecodec.deepspeed.clipping import tag_parameters_for_grad_norm

from .engines import Grid, engine_for, join
from .tied_models import VOCABULARY, WIDTH, Model, build_tied, cut, loss_of
from .tied_words import VARIANTS
from .tied_words import VOCABULARY as WORDS
from .training import Trained, Training

__all__ = ["Case", "build", "engine_of"]

ACCUMULATE = 2


@dataclass(frozen=True)
class Case(Training):
    """A training with tied weights.

    ``without`` leaves out one part that keeps copies equal. ``tensor`` ranks hold each stage and
    do the same. Copies are compared every ``check`` steps. ``made``: the stages are "copied", and
    ties given by hand, "copied by name", and ties found in the model, or "on meta", until a rank
    needs its own.
    """

    model: Model
    pipes: int
    replicas: int = 1
    tensor: int = 1
    schedule: str = "1f1b"
    bf16: bool = False
    zero: int = 0
    clip: float = 0.0
    steps: int = 5
    frozen: bool = False
    without: str = ""
    check: int = 0
    made: str = ""

    @property
    def grid(self) -> Grid:
        stages = self.pipes * (2 if self.schedule == "dualpipev" else 1)
        return Grid(stages, self.replicas, self.schedule, self.tensor)

    @property
    def accumulate(self) -> int:
        return 2 * self.pipes if self.schedule == "dualpipev" else ACCUMULATE

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    @property
    def inputs(self) -> list[str] | None:
        t5 = ["input_ids", "attention_mask", "decoder_input_ids"]
        return t5 if self.model == "t5" else None

    @property
    def whole(self) -> tuple[Any, ...]:
        """All that the training in one process depends on."""
        numbers = (self.replicas, self.accumulate, self.steps, self.clip)
        return (self.model, self.bf16, self.frozen, *numbers)

    def build(self) -> nn.Module:
        return build_tied(self.model, frozen=self.frozen)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        if self.model == "llama":
            return torch.optim.AdamW(parameters, lr=1e-3)
        # GPT-2 has biases whose gradients are nothing but rounding; Adam makes whole steps of them.
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)

    def batches(
        self, step: int, replica: int, *, evaluate: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        for index in range(self.accumulate):
            random = torch.Generator().manual_seed(1000 * step + 100 * replica + index)
            if self.model in VARIANTS:
                ids = torch.randint(0, WORDS, (4, 6), generator=random)
                yield {"ids": ids, "labels": ids.flip(1)}
            elif isinstance(self.model, str):
                ids = torch.randint(0, VOCABULARY, (2, 12), generator=random)
                mask = (torch.arange(12) < torch.tensor([[12 - index], [7]])).long()
                batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
                yield {**batch, "decoder_input_ids": ids.flip(1)} if self.model == "t5" else batch
            else:
                yield {
                    "hidden": torch.randn(4, WIDTH, generator=random).to(self.dtype),
                    "labels": torch.randint(0, 3, (4,), generator=random),
                }

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        given = {name: value for name, value in batch.items() if name != "labels"}
        output = model(**given)
        return loss_of(self.model)(getattr(output, "logits", output), batch["labels"])

    def train_batch(self, engine: Any, batches: Any, trained: Trained) -> None:
        with noting_norms(trained.norms):
            super().train_batch(engine, batches, trained)
        if self.clip and len(trained.norms) < len(trained.losses):
            trained.norms.append(float(engine.get_global_grad_norm()))

    def engine(self, model: nn.Module) -> tuple[Any, dict[nn.Parameter, str]]:
        """Only the first ranks' copies have the value that all are to begin with."""
        from deepspeed.pipe import PipelineModule

        join()
        own = dist.get_rank() * self.pipes // dist.get_world_size()
        part, names = self.partition(model, own)
        for stage, path in {(k, path) for tie in part.tie_weights.values() for path, k in tie}:
            with torch.no_grad():
                part.stages[stage].get_parameter(path).add_(own)
        with pytest.MonkeyPatch.context() as patch:
            if self.without == "broadcast":
                patch.setattr(PipelineModule, "_synchronize_tied_weights", lambda self: None)
            if self.without == "order":
                patch.setattr(setup, "sum_tied_gradients", lambda engine, presence: None)
            engine = engine_of(self, part, loss_of(self.model))
        if self.without == "reduction":
            engine.module.get_tied_weights_and_groups = list
        if self.without == "norm":
            for parameter in engine.module.parameters():
                parameter.ds_pipe_replicated = False
            tag_parameters_for_grad_norm(engine.module, 0)
        here = {
            parameter: names[path, wrapper.stage_id]
            for wrapper in engine.module.modules()
            if isinstance(wrapper, pipecodec.DeepSpeedPipeStageWrapper)
            for path, parameter in wrapper.mod.named_parameters()
        }
        return engine, here

    def partition(self, model: nn.Module, own: int) -> tuple[pipecodec.Partition, dict[Any, str]]:
        """Return the stages, and the model's name for the parameter in each place of them."""
        stages = cut(model, self.pipes)
        part = pipecodec.partition_modules(stages, self.inputs, model=model)
        assert part.model_state is not None
        names: dict[Any, str] = {}
        for key, places in part.model_state.places.items():
            for place in places:
                names.setdefault(place, key)
        if self.made.startswith("copied"):
            ties = list(part.tie_weights.values())
            by_name = {"model": model} if self.made == "copied by name" else {"ties": ties}
            stages = [copy.deepcopy(stage) for stage in stages]
            part = pipecodec.partition_modules(stages, self.inputs, **by_name)
        elif self.made == "on meta":
            state = part.state_dict_from_model(model.state_dict())
            with torch.device("meta"):
                model = self.build()
                stages = cut(model, self.pipes)
            part = pipecodec.partition_modules(stages, self.inputs, model=model)
            stages[own].to_empty(device="cpu").load_state_dict(state[own])
        return part, names


def build(case: Case) -> tuple[nn.Module, list[nn.Module], Callable[[Any, Any], Tensor]]:
    """Return the whole model, its stages, and the loss of its output and labels."""
    model = case.build()
    return model, cut(model, case.pipes), loss_of(case.model)


def engine_of(case: Case, part: pipecodec.Partition, loss: Callable[[Any, Any], Tensor]) -> Any:
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    return engine_for(
        part,
        case.grid,
        topology=PipeModelDataParallelTopology(case.pipes, case.tensor, case.replicas),
        loss_fn=loss,
        optimizer=case.optimizer,
        check_ties_every=case.check,
        config={
            "gradient_accumulation_steps": case.accumulate,
            "gradient_clipping": case.clip,
            "bf16": {"enabled": case.bf16},
            "zero_optimization": {"stage": case.zero},
        },
    )


@contextlib.contextmanager
def noting_norms(norms: list[float]) -> Iterator[None]:
    """Keep the norm that the engine throws away in fp32 without ZeRO."""
    from deepspeed.runtime import engine

    clip = engine.clip_grad_norm_

    def noting(*args: Any, **kwargs: Any) -> Any:
        norm = clip(*args, **kwargs)
        norms.append(float(norm))
        return norm

    engine.clip_grad_norm_ = noting
    try:
        yield
    finally:
        engine.clip_grad_norm_ = clip
