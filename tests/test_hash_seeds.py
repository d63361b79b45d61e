"""Processes whose sets of strings have another order cut a model alike.

Each process that torchrun starts has a seed of its own for the hashes of strings.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch

import pipecodec

pytest.importorskip("transformers")

from .models.build import build

LOOPING = [
    ("causal-lm", "gemma3_text"),
    ("causal-lm", "gemma3n_text"),
    ("causal-lm", "olmo3"),
    ("masked-lm", "modernbert"),
]
"""Models that loop over the set of their layers' types."""

OTHERS = [("causal-lm", "gpt2"), ("seq2seq", "t5")]


def cuts() -> dict[str, list[str]]:
    """Return the fingerprints of the models' cuts, and the order of the sets they loop over."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = {}
    for mapping, model_type in [*LOOPING, *OTHERS]:
        case = build(mapping, model_type)
        kinds = list(set(getattr(case.model.config, "layer_types", None) or []))
        found[f"order of {model_type}"] = kinds
        batch = case.inputs(*case.sizes[0], 1, True)
        fingerprints = []
        for recompute in (True, False):
            part = pipecodec.partition(
                case.model, kwargs=batch, n_stages=3, verify=False, recompute=recompute
            )
            assert part.cut is not None
            fingerprints.append(part.cut.fingerprint)
        found[model_type] = fingerprints
    return found


@pytest.mark.slow
def test_cuts_do_not_depend_on_the_order_of_sets() -> None:
    program = "import json; from tests.test_hash_seeds import cuts; print(json.dumps(cuts()))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("0", "1")
    ]
    try:
        one, other = (json.loads(process.communicate(timeout=120)[0]) for process in started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    for _, model_type in LOOPING:
        kinds = f"order of {model_type}"
        assert one[kinds] == other[kinds][::-1] != other[kinds], "take seeds of two orders"
    for _, model_type in [*LOOPING, *OTHERS]:
        assert one[model_type] == other[model_type], model_type
