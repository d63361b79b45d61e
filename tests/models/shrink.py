"""Small configs of any model type of transformers: sizes by the names of their fields.

A config and the configs inside it are dataclasses. Each field that holds a size gets a small one by
its name, each token gets a number below the vocabulary's size, and all else stays at its default.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

__all__ = ["FIRST_WORD", "VOCABULARY", "small_config", "token"]

VOCABULARY = 97
FIRST_WORD = 40
"""The smallest token that means nothing special."""

Overrides = dict[str, Any]

SIZES: dict[str, tuple[str, ...] | str] = {
    "32": "hidden_size d_model n_embd embed_dim hidden_dim embedding_size word_embed_proj_dim emb_dim"
    " projection_dim encoder_hidden_size out_hidden_size output_dim dim",
    "48": "intermediate_size n_inner ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim ffn_hidden_size"
    " mlp_dim dim_ff dff shared_intermediate_size moe_shared_expert_intermediate_size"
    " shared_expert_intermediate_size intermediate_size_mlp dense_intermediate_size"
    " expert_ffn_hidden_size",
    "16": "num_conv_pos_embeddings feature_projection_input_dim subsampling_conv_channels moe_intermediate_size q_lora_rank kv_lora_rank classifier_proj_size xvector_output_dim"
    " hidden_size_per_layer_input num_mel_bins",
    "4": "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers"
    " num_decoder_layers num_encoder_layers depth layers num_attention_heads n_head n_heads num_heads"
    " attention_heads encoder_attention_heads decoder_attention_heads num_encoder_attention_heads"
    " num_decoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts"
    " patch_size qk_rope_head_dim qk_nope_head_dim rotary_dim index_topk index_n_heads"
    " mamba_n_heads laurel_rank",
    "8": "head_dim v_head_dim d_kv index_head_dim linear_key_head_dim linear_value_head_dim"
    " sliding_window state_size ssm_state_size mamba_d_state global_head_dim swa_head_dim"
    " linear_head_dim d_head dim_head o_lora_rank kv_channels mamba_chunk_size chunk_size",
    "2": "num_key_value_heads num_experts_per_tok moe_topk moe_top_k moe_k linear_num_key_heads"
    " linear_num_value_heads num_global_key_value_heads swa_num_key_value_heads hc_mult kv_n_heads"
    " o_groups n_groups",
    "1": "n_group topk_group first_k_dense_replace n_shared_experts num_shared_experts"
    " moe_num_shared_experts mamba_n_groups spatial_merge_size temporal_patch_size",
    "64": "max_position_embeddings n_positions n_ctx max_seq_len max_source_positions"
    " max_target_positions max_2d_position_embeddings",
    "16 ": "image_size crop_size",
    str(VOCABULARY): "vocab_size vocab_size_per_layer_input",
}
SMALL = {name: int(size) for size, names in SIZES.items() for name in names.split()}

LISTS = {  # of models whose stages have sizes of their own
    "hidden_sizes": [16, 32, 48, 64, 64],
    "conv_dim": [8] * 8,
    "subsampling_conv_channels": [8] * 8,
    "depths": [2, 2, 2, 2],
    "num_heads": [2, 2, 2, 2],
    "num_attention_heads": [2, 2, 2, 2],
}

TOKENS = """image video vision_start vision_end audio image_start image_end video_start video_end
boi eoi boa eoa audio_bos audio_eos audio_start audio_end vision image_bos eod sep mask cls""".split()
PLAIN = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 1, "unk": 3}


def token(name: str) -> int:
    """Return the number of a special token: "image", "boi", ..."""
    if name in PLAIN:
        return PLAIN[name]
    return 4 + TOKENS.index(name) if name in TOKENS else FIRST_WORD - 1


def small_config(
    model_type: str | type[PreTrainedConfig], overrides: Overrides
) -> PreTrainedConfig:
    """Return a config with small sizes.

    `overrides` are values of fields; ``...`` leaves the default. The value of a config inside is a
    dict of overrides for it, with "model_type" where it may be of several types, or None.
    """
    kind = CONFIG_MAPPING[model_type] if isinstance(model_type, str) else model_type
    given = {name: value for name, value in overrides.items() if name != "model_type"}
    names = {field.name for field in dataclasses.fields(kind)}
    if "is_decoder" not in names:
        given.pop("is_decoder", None)
    settings: dict[str, Any] = {}
    if "kv_lora_rank" in names:  # keys and values of all heads are made of one latent
        settings["num_key_value_heads"] = SMALL["num_attention_heads"]
    for field in dataclasses.fields(kind):
        if field.name not in kind.sub_configs:
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            value = small_value(field.name, default)
            if value is not None:
                settings.setdefault(field.name, value)
    for name, inner in kind.sub_configs.items():
        chosen = given.pop(name, {})
        if chosen is not None and chosen is not ...:
            chosen = inner_config(kind, name, inner, chosen)
        settings[name] = chosen
    settings |= given
    return kind(**{name: value for name, value in settings.items() if value is not ...})


def inner_config(
    kind: type[PreTrainedConfig], name: str, inner: Any, overrides: Overrides
) -> PreTrainedConfig | None:
    """Return the small config of the field `name`: of the type that is named, declared or made."""
    if "model_type" in overrides:
        inner = overrides["model_type"]
    elif not dataclasses.is_dataclass(inner):
        made = getattr(kind(), name)
        inner = None if made is None else type(made)
    return None if inner is None else small_config(inner, overrides)


def small_value(name: str, default: Any) -> Any:
    """Return a small value for the field, or None if it is no size and no token."""
    if isinstance(default, bool) or not (
        default is None or isinstance(default, int | list | tuple)
    ):
        return None
    if isinstance(default, list | tuple):
        sizes = LISTS.get(name)
        return sizes and type(default)(sizes[: len(default)])
    stem = re.sub(r"_token_(id|index)$|_token$|_index$|_id$", "", name)
    if stem != name and (stem in PLAIN or default is not None):
        return token(stem)
    return SMALL.get(name) if default is not None or name in OFTEN_NONE else None


OFTEN_NONE = {
    "num_experts_per_tok",
    "num_key_value_heads",
    "head_dim",
    "n_inner",
    "q_lora_rank",
    "sliding_window",
}
"""Sizes that are given although their default is None."""
