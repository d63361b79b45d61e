"""Cuts models on meta and loads their stages from a folder: python -m tests.models.on_meta."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import tempfile
import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

import pipecodec

from .build import MAPPINGS, Case, build, loss_of
from .check import STAGES, Outcome, told
from .compare import SEED, copied, difference, run_model
from .forked import Ended, in_processes

__all__ = ["check_on_meta", "main"]


def main() -> int:
    """Compare the types that are asked for; return 1 if one of them is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.models.on_meta", description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="model types; all if none")
    parser.add_argument("--mapping", nargs="+", choices=MAPPINGS, default=["causal-lm"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    tasks = (
        ((mapping, model_type), functools.partial(check_on_meta, mapping, model_type))
        for mapping in options.mapping
        for model_type in MAPPINGS[mapping]
        if not options.types or model_type in options.types
    )
    counts: Counter[str] = Counter()
    for case, result in in_processes(tasks, at_a_time=2, seconds=300, gigabytes=10):
        outcome = Outcome("ended", str(result)) if isinstance(result, Ended) else result
        counts[outcome.verdict] += 1
        print(*case, f"{outcome.verdict}: {outcome.text}".rstrip(": "), flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    return int(any(counts[verdict] for verdict in ("WRONG", "ended")))


def check_on_meta(mapping: str, model_type: str) -> Outcome:
    """Build a model, cut it on meta, load all stages from its folder, and compare."""
    try:
        case = build(mapping, model_type)
        with torch.device("meta"):
            model = type(case.model)(case.model.config).train()
    except Exception as error:
        return Outcome("not built", told(error))
    try:
        first = case.inputs(*case.sizes[0], 1, True)
        part = pipecodec.partition(model, kwargs=first, n_stages=STAGES)
        with tempfile.TemporaryDirectory() as folder:
            case.model.save_pretrained(folder, max_shard_size="100KB")
            for stage in range(STAGES):
                pipecodec.load_stage(part, stage, folder)
    except Exception as error:
        return Outcome("refused", told(error))
    if (wrong := _tensors(part, case)) is not None:
        return Outcome("WRONG", wrong)
    for padded, size in ((True, case.sizes[0]), (False, case.sizes[-1])):
        inputs = case.inputs(*size, 9, padded)
        try:
            found = _run(part, case.model, inputs)
        except Exception as error:
            return Outcome("refused", told(error))
        wrong = difference(run_model(case.model, inputs), found)
        if wrong is not None:
            return Outcome("WRONG", f"{'padded' if padded else 'full'} {size}: {wrong}")
    return Outcome("right")


def _tensors(part: pipecodec.Partition, case: Case) -> str | None:
    """Return the first tensor of a stage that is not the built model's."""
    built = _all(case.model)
    for stage in part.stages:
        for name, tensor in _all(stage).items():
            if tensor.is_meta or not torch.equal(_bits(tensor), _bits(built[name])):
                return f"{name} is another"
    return None


def _all(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _run(part: pipecodec.Partition, built: nn.Module, inputs: dict[str, Any]) -> Any:
    for stage in part.stages:
        stage.zero_grad()
    torch.manual_seed(SEED)
    output = pipecodec.run_local(part, **copied(inputs))
    loss_of(output).backward()
    gradients: dict[str, torch.Tensor | None] = {}
    for key, places in part.known_model_state().places.items():
        for path, stage in places:
            gradients[key] = _all(part.stages[stage])[path].grad
    return output, {name: gradients[name] for name, _ in built.named_parameters()}


if __name__ == "__main__":
    sys.exit(main())
