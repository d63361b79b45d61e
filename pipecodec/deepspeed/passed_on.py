"""Checks the arguments that ``initialize`` passes on to ``deepspeed.initialize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import described, function, instance, one_of, whole_number

__all__ = ["check_passed_on", "checked_scheduler"]

_SCHEDULER = "a scheduler with a method step, or a function of the optimizer that returns one"


def check_passed_on(arguments: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` or ``ValueError`` for a wrong argument, which DeepSpeed may not notice.

    ``optimizer`` and ``model_parameters`` are left to :func:`.groups_of_this_rank`.
    """
    for name, value in arguments.items():
        if name not in _CHECKS:
            raise TypeError(
                f"initialize has no argument {name!r}; it takes those of its own, and of "
                f"deepspeed.initialize {', '.join(_CHECKS)}"
            )
        check = _CHECKS[name]
        if check is not None and value is not None:
            check(name, value)


def checked_scheduler(scheduler: Any) -> Any:
    """Return a scheduler as it is, and let a function that makes one be checked for its result."""
    if scheduler is None or _is_scheduler(scheduler):
        return scheduler

    def make(optimizer: Any) -> Any:
        made = scheduler(optimizer)
        if not _is_scheduler(made):
            raise TypeError(f"lr_scheduler must be {_SCHEDULER}, not one of {described(made)}")
        return made

    return make


def _is_scheduler(value: Any) -> bool:
    return not isinstance(value, type) and callable(getattr(value, "step", None))


def _scheduler(name: str, value: Any) -> None:
    if not (_is_scheduler(value) or callable(value)):
        raise TypeError(f"{name} must be {_SCHEDULER}, not {described(value)}")


def _data(name: str, value: Any) -> None:
    sized = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if not sized or isinstance(value, (str, bytes, Mapping, type)):
        hint = "; pass the dataset inside it" if hasattr(value, "dataset") else ""
        raise TypeError(
            f"{name} must be a dataset with a length and numbered samples, not {described(value)}"
            f"{hint}"
        )


def _none(reason: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        raise ValueError(f"{name} must be None, not {described(value)}: {reason}")

    return check


def _namespace(name: str, value: Any) -> None:
    if not hasattr(value, "__dict__") or isinstance(value, type) or callable(value):
        raise TypeError(f"{name} must be the arguments of a parser, not {described(value)}")
    for config in ("deepspeed_config", "deepscale_config"):
        if getattr(value, config, None) is not None:
            raise ValueError(f"{name} names a {config}; pass it as config=, and leave it out there")


_CHECKS: dict[str, Callable[[str, Any], None] | None] = {
    "optimizer": None,
    "model_parameters": None,
    "lr_scheduler": _scheduler,
    "training_data": _data,
    "collate_fn": function,
    "args": _namespace,
    "distributed_port": lambda name, value: whole_number(name, value, "a number of a port", 1),
    "dist_init_required": lambda name, value: one_of(name, value, True, False, None),
    "mesh_param": lambda name, value: instance(name, value, (tuple, list), "a pair of sizes"),
    "mpu": _none("the partition's stages and topology= say which ranks work together"),
    "config_params": _none("it is an old name of config=, which is heeded alone"),
}
