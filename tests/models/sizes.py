"""Small sizes by the names of a config's fields, and tokens below the small vocabulary's size."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["FIRST_WORD", "VOCABULARY", "small_value", "token"]

VOCABULARY = 97
FIRST_WORD = 40
"""The smallest token that means nothing special."""

SIZES = {
    1: """n_group topk_group first_k_dense_replace n_shared_experts num_shared_experts
        moe_num_shared_experts mamba_n_groups spatial_merge_size temporal_patch_size""",
    2: """num_key_value_heads num_global_key_value_heads swa_num_key_value_heads kv_n_heads
        linear_num_key_heads linear_num_value_heads num_experts_per_tok moe_topk moe_top_k moe_k
        hc_mult o_groups n_groups""",
    4: """num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers
        num_decoder_layers num_encoder_layers depth layers num_attention_heads n_head n_heads
        num_heads attention_heads encoder_attention_heads decoder_attention_heads
        num_encoder_attention_heads num_decoder_attention_heads mamba_n_heads index_n_heads
        num_experts num_local_experts n_routed_experts moe_num_experts qk_rope_head_dim
        qk_nope_head_dim rotary_dim index_topk patch_size laurel_rank""",
    8: """head_dim v_head_dim global_head_dim swa_head_dim index_head_dim linear_key_head_dim
        linear_value_head_dim linear_head_dim d_kv d_head dim_head kv_channels sliding_window
        state_size ssm_state_size mamba_d_state mamba_chunk_size chunk_size attention_window
        o_lora_rank""",
    16: """moe_intermediate_size q_lora_rank kv_lora_rank hidden_size_per_layer_input image_size
        crop_size num_mel_bins feature_projection_input_dim subsampling_conv_channels
        num_conv_pos_embeddings classifier_proj_size xvector_output_dim""",
    32: """hidden_size d_model n_embd embed_dim hidden_dim embedding_size word_embed_proj_dim
        emb_dim projection_dim encoder_hidden_size out_hidden_size output_dim dim""",
    48: """intermediate_size intermediate_size_mlp dense_intermediate_size d_inner n_inner d_ff
        ffn_dim encoder_ffn_dim decoder_ffn_dim ffn_hidden_size expert_ffn_hidden_size
        mlp_dim dim_ff dff shared_intermediate_size shared_expert_intermediate_size
        moe_shared_expert_intermediate_size""",
    64: """max_position_embeddings max_2d_position_embeddings n_positions n_ctx max_seq_len
        max_source_positions max_target_positions""",
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
}
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}

OFTEN_NONE = """num_experts_per_tok num_key_value_heads head_dim n_inner q_lora_rank
    sliding_window""".split()
"""Sizes that are given although their default is None."""

LISTS = {
    "hidden_sizes": [16, 32, 48, 64, 64],
    "depths": [2, 2, 2, 2],
    "num_heads": [2, 2, 2, 2],
    "num_attention_heads": [2, 2, 2, 2],
    "conv_dim": [8] * 8,
}
"""Sizes of models whose own stages differ; as many are taken as the default has."""

SPECIAL = """image video vision_start vision_end audio image_start image_end video_start video_end
    boi eoi boa eoa audio_bos audio_eos audio_start audio_end vision image_bos eod sep mask
    cls""".split()
TOKENS = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 1, "unk": 3}
SURELY = ("pad", "bos", "eos", "decoder_start")
"""Tokens that are given although their default is None."""


def token(name: str) -> int:
    """Return the number of a special token: "image", "boi", ..."""
    if name in TOKENS:
        return TOKENS[name]
    return 4 + SPECIAL.index(name) if name in SPECIAL else FIRST_WORD - 1


def small_value(name: str, default: Any) -> Any:
    """Return a small value for the field, or None if it is no size and no token."""
    if isinstance(default, list | tuple):
        sizes = LISTS.get(name)
        return sizes and type(default)(sizes[: len(default)])
    if isinstance(default, bool) or not isinstance(default, int | None):
        return None
    stem = re.sub(r"_token_(id|index)$|_token$|_index$|_id$", "", name)
    if stem != name and (stem in SURELY or default is not None):
        return token(stem)
    return SMALL.get(name) if default is not None or name in OFTEN_NONE else None
