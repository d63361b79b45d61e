"""Models that ``pipecodec.partition`` cuts train under torch's schedules as they do whole.

Weights of several stages, and values that stages of one rank hand on to each other, have gradients
that are summed in another order than in one process: there the results differ by rounding.
"""

from __future__ import annotations

import pytest

from ..distributed.harness import values
from .model_training import Model, train_models

ROUNDED = {"llama, tied", "t5", "gemma3n"}
MODELS = ["llama", "glm_moe_dsa", "mixtral", "block residuals", *sorted(ROUNDED)]


@pytest.mark.parametrize(("world", "schedule"), [(3, "1F1B"), (2, "ZBVZeroBubble")])
def test_trains_as_in_one_process(world: int, schedule: str) -> None:
    rounded = ROUNDED | ({"block residuals"} if schedule == "ZBVZeroBubble" else set())
    models = {
        name: Model(name, schedule, within=2e-6 if name in rounded else 0.0) for name in MODELS
    }
    ranks = values(train_models, world, models, timeout=120.0)
    assert ranks[0] == dict.fromkeys(models, "")
