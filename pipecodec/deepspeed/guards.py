"""Refuses settings of an engine that would change the bytes of a frame on their way."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

from ..arguments import instance, one_of
from ..logger import get_logger
from .refused import refuse_settings

__all__ = ["comparable", "protect_frames", "say_default_clipping", "settings_of"]

logger = get_logger("deepspeed")

_PARTITIONED = ("pipe_partitioned", "grad_partitioned")

_LOCAL = {
    "comet",
    "comms_logger",
    "csv_monitor",
    "dump_state",
    "flops_profiler",
    "memory_breakdown",
    "steps_per_print",
    "tensorboard",
    "wall_clock_breakdown",
    "wandb",
}
"""Sections about a rank's own reports."""


def protect_frames(
    config: Any, topology: Any, *, schedule: str = "1f1b", dynamic_shape: bool = False
) -> None:
    """Refuse or turn off settings that would destroy frames.

    ``config`` is as in ``settings_of``. With tensor parallelism in
    ``topology`` the engine cuts the first tensor of every message into parts unless its
    ``pipeline`` section says otherwise; a dict is changed in place and a warning says so. Raises
    ``ValueError`` for a setting that the engine gets wrong, for that section in a file, and for
    shapes that change under a ``schedule`` that exchanges them once.
    """
    settings = settings_of(config)
    one_of("schedule", schedule, "1f1b", "dualpipev")
    if dynamic_shape and schedule == "dualpipev":
        raise ValueError(
            "DualPipeV exchanges the shapes of a boundary's tensors once, so neither "
            "dynamic_shape=True nor read='ahead' can hold with schedule='dualpipev'; pad to one "
            "shape, or use schedule='1f1b'"
        )
    refuse_settings(settings)
    pipeline = settings.get("pipeline", {})
    left_on = [name for name in _PARTITIONED if pipeline.get(name, True)]
    if topology.get_dim("model") <= 1 or not left_on:
        return
    if not isinstance(config, dict):
        raise ValueError(
            f"with tensor parallelism the engine would cut the tensors of a boundary into parts; "
            f"set {' and '.join(left_on)} to false in the section pipeline of {config}"
        )
    config["pipeline"] = {**pipeline, **dict.fromkeys(left_on, False)}
    logger.warning(
        "pipeline.%s turned off in the configuration: with tensor parallelism the engine would "
        "cut the tensors of a boundary into parts",
        " and pipeline.".join(left_on),
        ranks=0,
    )


def say_default_clipping(config: Any) -> None:
    """Log on rank 0 that gradients are clipped, unless the configuration has a setting for it."""
    if "gradient_clipping" not in settings_of(config):
        logger.warning(
            "gradients are clipped to a norm of 1.0, as DeepSpeed does where the configuration has "
            "no gradient_clipping; set it, 0.0 for none",
            ranks=0,
        )


def settings_of(config: Any) -> Mapping[str, Any]:
    """Return DeepSpeed's configuration: the mapping itself, or the contents of the file or text.

    Both are JSON or, as DeepSpeed has it, Hjson; the text is in URL-safe base64. Raises
    ``TypeError`` for anything else, ``ValueError`` for text that is neither.
    """
    if isinstance(config, Mapping):
        return config
    must = "DeepSpeed's configuration, a dict or the path of a JSON file"
    instance("config", config, (str, os.PathLike), must)
    import hjson  # type: ignore[import-untyped]  # DeepSpeed needs it

    found = os.path.exists(config)
    try:
        if found:
            with open(config, encoding="utf-8") as file:
                settings = hjson.load(file)
        else:
            settings = hjson.loads(base64.urlsafe_b64decode(config).decode())
    except ValueError as error:
        if found:
            raise ValueError(f"config: the file {config} is no JSON: {error}") from None
        raise ValueError(
            f"config is no mapping, no file, and no JSON in base64: {config}"
        ) from None
    instance(f"config: the content of {config}", settings, Mapping, "a dict of settings")
    contents: Mapping[str, Any] = settings
    return contents


def comparable(config: Any) -> dict[str, str]:
    """Return DeepSpeed's configuration flat, without settings that may differ between ranks."""
    flat: dict[str, str] = {}
    left: list[tuple[str, Any]] = [
        (name, value) for name, value in settings_of(config).items() if name not in _LOCAL
    ]
    for name, value in left:
        if isinstance(value, Mapping):
            left.extend((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            flat[f"the configuration's {name}"] = repr(value)
    return flat
