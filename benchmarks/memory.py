"""Peak memory of each rank that cuts a model on meta and loads its own stage.

``python -m benchmarks.memory`` writes a Llama of random weights into shards, then starts one
process for each measurement: one that imports only, one that loads the whole model with
``from_pretrained``, and the ranks, each of which observes and cuts the model on meta and then loads
or initialises its stage. Peaks are ``VmHWM`` of Linux, which counts all resident pages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["main", "measure"]

MIB = 2**20
Peaks = dict[str, float]
"""MiB: "imports", "cut" and "loaded" are peaks until then, "weights" the size of the tensors."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=main.__doc__)
    parser.add_argument("--stages", type=int, default=4, metavar="N")
    parser.add_argument("--layers", type=int, default=16, metavar="N")
    parser.add_argument("--hidden", type=int, default=512, metavar="N")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(_one(json.loads(options.one))))
        return
    print(as_text(measure(options.stages, options.layers, options.hidden)))


def measure(stages: int, layers: int, hidden: int) -> dict[str, Peaks]:
    """Return the peaks of each process."""
    with tempfile.TemporaryDirectory() as folder:
        task = {"folder": folder, "layers": layers, "hidden": hidden, "stages": stages}
        _run([task | {"do": "write"}])
        alone = _run([task | {"do": "imports"}]) + _run([task | {"do": "whole"}])
        ranks = [
            task | {"do": do, "stage": k} for do in ("load", "initialise") for k in range(stages)
        ]
        names = [f"{each['do']} stage {each['stage']}" for each in ranks]
        return dict(
            zip(["imports only", "from_pretrained", *names], alone + _run(ranks), strict=True)
        )


def _run(tasks: list[dict[str, Any]]) -> list[Peaks]:
    """Run each task in a process of its own, one after the other."""
    found = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for task in tasks:
        command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps(task)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def _one(task: dict[str, Any]) -> Peaks:
    import torch
    import transformers

    import pipecodec

    transformers.logging.disable_progress_bar()
    llama = transformers.LlamaForCausalLM  # imported by being named
    peaks = {"imports": _peak()}
    config = transformers.LlamaConfig(
        vocab_size=16000,
        hidden_size=task["hidden"],
        intermediate_size=task["hidden"] * 11 // 4,
        num_hidden_layers=task["layers"],
        num_attention_heads=8,
        num_key_value_heads=8,
        use_cache=False,
    )
    folder = Path(task["folder"])
    model: torch.nn.Module
    if task["do"] == "write":
        llama(config).save_pretrained(folder, max_shard_size="20MB")
        return peaks
    if task["do"] == "imports":
        return peaks
    if task["do"] == "whole":
        model = llama.from_pretrained(folder)
        for tensor in model.parameters():
            tensor.detach().sum()  # until then it is a part of the file, and in no memory
        return peaks | {"loaded": _peak(), "weights": _size(model)}
    with torch.device("meta"):
        model = llama(config)
    ids = torch.arange(3, 35).reshape(2, 16)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    part = pipecodec.partition(model, kwargs=batch, n_stages=task["stages"])
    peaks["cut"] = _peak()
    if task["do"] == "load":
        stage = pipecodec.load_stage(part, task["stage"], folder)
    else:
        stage = pipecodec.materialize_stage(part, task["stage"], seed=0)
    return peaks | {"loaded": _peak(), "weights": _size(stage)}


def _peak() -> float:
    """Return the highest resident size so far in MiB; that of ``getrusage`` is the parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _size(module: Any) -> float:
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values()) / MIB


def as_text(found: dict[str, Peaks]) -> str:
    """Return the table; the last column is all that a process holds beside imports and weights."""
    base = found["imports only"]["imports"]
    head = ("weights", "cut", "peak", "- imports", "- weights")
    lines = [f"{'process':<20}" + "".join(f"{name:>11}" for name in head)]
    for name, peaks in found.items():
        peak, weights = peaks.get("loaded", peaks["imports"]), peaks.get("weights", 0.0)
        row = (weights, peaks.get("cut"), peak, peak - base, peak - base - weights)
        cells = ("" if value is None else f"{value:.0f}" for value in row)
        lines.append(f"{name:<20}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(["MiB; cut and peak are peaks until then", *lines])


if __name__ == "__main__":
    main()
