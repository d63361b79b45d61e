"""``clip_grad_norm_`` clips as torch's does with all parameters of the model in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import pipecodec
from pipecodec.demo.launch import Rank
from tests.distributed.harness import values

INFINITY = float("inf")


@dataclass(frozen=True)
class Clip:
    """Gradients of three stages, and the arguments; ``fill`` is a value of the last one's."""

    norm_type: float = 2.0
    max_norm: float = 0.5
    none: tuple[int, ...] = ()
    fill: float | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float64,) * 3
    foreach: bool | None = None
    error: bool = False


class Stage(nn.Module):
    """A stage with two weights; the first and the last one share another."""

    def __init__(self, index: int, shared: nn.Parameter, clip: Clip) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(index)
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.bias = nn.Parameter(torch.randn(4))
        self.to(clip.dtypes[index])
        for parameter in self.parameters():
            if index not in clip.none:
                own = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.grad = own.to(parameter.dtype)
        if index == 2 and clip.fill is not None:
            self.bias.grad[1] = clip.fill
        if index != 1:
            self.shared = shared

    def forward(self, x: Any) -> Any:
        return x


CASES = {
    "2": Clip(),
    "1": Clip(1.0),
    "3": Clip(3.0, foreach=False),
    "inf": Clip(INFINITY),
    "not clipped": Clip(max_norm=1e9),
    "a rank has no gradients": Clip(none=(1,)),
    "one rank has gradients": Clip(INFINITY, none=(0, 2)),
    "none has": Clip(none=(0, 1, 2)),
    "inf in it": Clip(fill=INFINITY),
    "nan in it": Clip(fill=float("nan")),
    "nan, inf": Clip(INFINITY, fill=float("nan")),
    "float32": Clip(dtypes=(torch.float32,) * 3),
    "float32 and float64": Clip(dtypes=(torch.float32, torch.float64, torch.float32)),
    "bfloat16 and float32": Clip(dtypes=(torch.float32, torch.bfloat16, torch.float32)),
}

ERRORS = {
    "not finite": (Clip(fill=float("nan"), error=True), "RuntimeError: the norm of all gradients"),
    "no norm": (Clip(norm_type=0.0), "ValueError: norm_type=0.0: give a positive number, or inf"),
}


def stages_of(clip: Clip) -> list[Stage]:
    torch.manual_seed(0)
    shared = nn.Parameter(torch.randn(5, dtype=clip.dtypes[0]))
    if 0 not in clip.none:
        shared.grad = torch.arange(5, dtype=shared.dtype) / 3
    return [Stage(index, shared, clip) for index in range(3)]


def clipped(rank: Rank, cases: dict[str, Clip]) -> dict[str, Any]:
    """Return for each case the norm and the gradients by name, or the error."""
    dist.init_process_group(rank.backend)
    found: dict[str, Any] = {}
    for name, clip in cases.items():
        rank.say(name)
        modules = stages_of(clip)
        part = pipecodec.partition_modules(modules, outputs=["x", "x", None])
        stage = pipecodec.pipelining.build_stage(part, rank.rank)
        try:
            norm = pipecodec.pipelining.clip_grad_norm_(
                stage, clip.max_norm, clip.norm_type, clip.error, clip.foreach
            )
            found[name] = float(norm), gradients(modules[rank.rank])
        except (ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def gradients(module: nn.Module) -> dict[str, Any]:
    return {
        name: None if p.grad is None else p.grad.double().numpy()
        for name, p in module.named_parameters()
    }


def test_clips_as_torch_does_in_one_process() -> None:
    ranks = values(clipped, 3, CASES)
    for name, clip in CASES.items():
        stages = stages_of(clip)
        expected = nn.utils.clip_grad_norm_(
            nn.ModuleList(stages).parameters(),
            clip.max_norm,
            clip.norm_type,
            foreach=clip.foreach,
        )
        rough = any(dtype != torch.float64 for dtype in clip.dtypes)
        close = {"rtol": 1e-2 if torch.bfloat16 in clip.dtypes else 1e-6 if rough else 1e-12}
        copies = set()
        for index, rank in enumerate(ranks):
            norm, own = rank[name]
            assert norm == pytest.approx(float(expected), rel=close["rtol"], nan_ok=True), name
            for path, gradient in gradients(stages[index]).items():
                assert (own[path] is None) == (gradient is None), (name, path)
                if gradient is not None:
                    np.testing.assert_allclose(own[path], gradient, **close, err_msg=name)
            if own.get("shared") is not None:
                copies.add(own["shared"].tobytes())
        assert len(copies) <= 1, name


def test_all_ranks_raise() -> None:
    for rank in values(clipped, 3, {name: clip for name, (clip, _) in ERRORS.items()}):
        for name, (_, text) in ERRORS.items():
            assert rank[name].startswith(text)
