"""Small configs of any model type of transformers.

A config and the configs inside it are dataclasses. Each field that holds a size gets a small one by
its name, each token gets a number below the vocabulary's size, and all else stays at its default.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from .sizes import small_value

__all__ = ["small_config"]

Overrides = dict[str, Any]


def small_config(
    model_type: str | type[PreTrainedConfig], overrides: Overrides
) -> PreTrainedConfig:
    """Return a config with small sizes.

    `overrides` are values of fields; ``...`` leaves the default. The value of a config inside is a
    dict of overrides for it, with "model_type" where it may be of several types, or None.
    """
    kind = CONFIG_MAPPING[model_type] if isinstance(model_type, str) else model_type
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given = {name: value for name, value in overrides.items() if name != "model_type"}
    if "is_decoder" not in fields:
        given.pop("is_decoder", None)
    settings: dict[str, Any] = {}
    if "kv_lora_rank" in fields:  # keys and values of all heads are made of one latent
        settings["num_key_value_heads"] = small_value("num_attention_heads", 0)
    for name, field in fields.items():
        if name not in kind.sub_configs:
            made = field.default_factory is not dataclasses.MISSING
            default = field.default_factory() if made else field.default
            if (value := small_value(name, default)) is not None:
                settings.setdefault(name, value)
    for name, declared in kind.sub_configs.items():
        chosen = given.pop(name, {})
        settings[name] = (
            inner_config(kind, name, declared, chosen) if isinstance(chosen, dict) else chosen
        )
    settings |= given
    return kind(**{name: value for name, value in settings.items() if value is not ...})


def inner_config(
    kind: type[PreTrainedConfig], name: str, declared: Any, overrides: Overrides
) -> PreTrainedConfig | dict[str, Any] | None:
    """Return the small config of the field `name`: of the type that is named, declared or made."""
    if "model_type" in overrides:
        declared = overrides["model_type"]
    elif not dataclasses.is_dataclass(declared):
        made = getattr(kind(), name)
        declared = None if made is None else type(made)
    if declared is None:
        return None
    config = small_config(declared, overrides)
    return config.to_dict() if kind.model_type.endswith("encoder-decoder") else config
