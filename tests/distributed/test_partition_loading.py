"""Ranks that cut a model on meta, and have only their own stage in memory, train as one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pipecodec
import pipecodec.deepspeed
from pipecodec.no_memory import has_no_memory

from .comparison import check
from .engines import Grid, engine_for, join
from .harness import TIMEOUT, values
from .observed_models import LENGTH, MODELS, Observed
from .reference import in_one_process
from .training import on_engine


@dataclass
class Loaded(Observed):
    """Loads its stage from a folder; the whole model is in no rank's memory."""

    folder: str = ""

    def engine(self, built: nn.Module) -> tuple[Any, dict[nn.Parameter, str]]:
        with torch.device("meta"):
            model = MODELS[self.model]().train()
        batch = self.batch(1, rows=2, length=LENGTH, padded=True)
        part = pipecodec.partition(model, kwargs=batch, n_stages=self.grid.stages)
        join()
        own = {torch.distributed.get_rank() % self.grid.pipes}
        if self.grid.schedule == "dualpipev":
            own |= {self.grid.stages - 1 - stage for stage in own}
        for stage in own:
            pipecodec.load_stage(part, stage, self.folder)
        engine = engine_for(part, self.grid, loss_fn=None, optimizer=self.optimizer)
        for stage, module in enumerate(part.stages):
            assert has_no_memory(module) == (stage not in own), stage
        state = pipecodec.deepspeed.model_state_dict(engine, part)
        assert (state is None) == (torch.distributed.get_rank() > 0)
        for key, value in (state or {}).items():
            assert torch.equal(value, built.state_dict()[key]), key
        names: dict[nn.Parameter, str] = {}
        for key, places in part.known_model_state().places.items():
            for path, stage in places:
                if stage in own:
                    names.setdefault(part.stages[stage].get_parameter(path), key)
        return engine, {p: names[p] for p in engine.module.parameters() if p in names}


def saved(case: Loaded, folder: Path) -> Loaded:
    case.folder = str(folder / case.model.replace(",", ""))
    model: Any = case.build()
    model.save_pretrained(case.folder, max_shard_size="30KB")
    return case


def test_ranks_that_loaded_their_stage_train_as_in_one_process(tmp_path: Path) -> None:
    exact, tied = ["mixtral"], ["llama, tied"]
    cases = {name: saved(Loaded(name), tmp_path) for name in [*exact, *tied]}
    (whole,) = values(in_one_process, 1, cases)
    ranks = values(on_engine, 3, cases, timeout=2 * TIMEOUT)
    for name in cases:
        check([rank[name] for rank in ranks], whole[name], within=1e-6 if name in tied else 0.0)


def test_two_stages_on_one_rank_share_a_tied_weight(tmp_path: Path) -> None:
    grid = Grid(4, schedule="dualpipev")
    cases = {"": saved(Loaded("llama, tied", grid), tmp_path)}
    (whole,) = values(in_one_process, 1, cases)
    check([rank[""] for rank in values(on_engine, 2, cases)], whole[""], within=1e-6)
