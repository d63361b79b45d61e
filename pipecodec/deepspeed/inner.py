"""Optimizers that DeepSpeed's wrappers, or missing gradients, would get wrong."""

from __future__ import annotations

from typing import Any

__all__ = ["correct_optimizer", "count_steps_by_group"]


def correct_optimizer(engine: Any) -> None:
    """Let the optimizer that this engine steps with keep its groups and its count of steps.

    ZeRO replaces an Adagrad by one of a single group with default options, which no schedule knows.
    ``FusedAdam`` steps a group with the count of its last parameter that has a gradient, which here
    may be another one in each step, and another one than in the whole model.
    """
    from deepspeed.ops.adam import FusedAdam

    inner = getattr(engine.optimizer, "optimizer", None)
    if inner is not None and inner is not engine.basic_optimizer:
        inner.param_groups = engine.basic_optimizer.param_groups
        engine.optimizer._link_all_hp_params()  # again: with one group it linked that one alone
        engine.optimizer._param_slice_mappings = engine.optimizer._create_param_mapping()
    if isinstance(engine.optimizer, FusedAdam):
        engine.optimizer.register_step_pre_hook(count_steps_by_group)


def count_steps_by_group(optimizer: Any, *_: Any) -> None:
    """Give all parameters of a group the largest count of steps in it."""
    for group in optimizer.param_groups:
        states = [optimizer.state[p] for p in group["params"] if optimizer.state.get(p)]
        group["step"] = max((state["step"] for state in states), default=0)
        for state in states:
            state["step"] = group["step"]
