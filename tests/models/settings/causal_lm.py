"""Settings of causal language models whose generic config does not fit, or is not interesting.

Sliding windows are shorter than the inputs, routers give logits to the loss, layers share keys
and values, and layer types alternate, so that more than hidden states cross.
"""

from __future__ import annotations

from ..inputs import assistant, captions, codebooks
from .model_type import Settings, fields

__all__ = ["CAUSAL_LM"]

SLIDING = ["sliding_attention", "full_attention"] * 3
ROUTED = {"output_router_logits": True}
SMALL_MLA = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
GEMMA_SHARED = {
    "num_hidden_layers": 6,
    "sliding_window": 4,
    "layer_types": SLIDING,
    "num_kv_shared_layers": 2,
}
GEMMA_3N = GEMMA_SHARED | {"activation_sparsity_pattern": [0.0] * 6, "intermediate_size": [48] * 6}
GEMMA_3N_TOWER = {
    "model_type": "siglip_vision_model",
    "rms_norm_eps": 1e-6,
    "vocab_size": 8,
    "vocab_offset": 97,
}
GEMMA_4 = GEMMA_SHARED | {"global_head_dim": 8, "num_global_key_value_heads": 2}
GEMMA_4_ASSISTANT = {
    "backbone_hidden_size": 32,
    "text_config": {
        "model_type": "gemma4_text",
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "num_kv_shared_layers": 4,
        "layer_types": SLIDING[:4],
        "global_head_dim": 8,
        "num_global_key_value_heads": 2,
    },
}
MUSIC = {"text_encoder": {"model_type": "t5"}, "audio_encoder": {"model_type": "encodec"}}
QWEN_4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
    "hc_lowrank": 8,
    "ngram_vocab_size_base": 50,
    "split_ngram_parts": 1,
    "heads_per_ngram": 2,
    "ple_layer_ids": [1, 3],
    "linear_num_value_heads": 4,
}

CAUSAL_LM: dict[str, Settings] = {
    "blt": fields(
        encoder_hash_byte_group_vocab=50,
        encoder_config={"hidden_size_global": 32, "num_hidden_layers": 2},
        decoder_config={"hidden_size_global": 32},
    ),
    "cohere_compass_text": fields(
        rope_parameters={
            name: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            for name in ("full_attention", "sliding_attention")
        },
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "dbrx": fields(attn_config={"rope_theta": 10000.0, "clip_qkv": 8.0}, **ROUTED),
    "deepseek_v3": fields(num_hidden_layers=6, first_k_dense_replace=2, **SMALL_MLA),
    "deepseek_v4": fields(
        "eager",
        num_hidden_layers=6,
        num_key_value_heads=1,
        hc_sinkhorn_iters=3,
    ),
    "diffllama": Settings(dropout=False),
    "dots1": fields(n_routed_experts=4, n_shared_experts=1),
    "falcon": fields(alibi=True),
    "gemma2": fields("eager", num_hidden_layers=6, sliding_window=4),
    "gemma3_text": fields(num_hidden_layers=6, sliding_window=4, layer_types=SLIDING),
    "gemma3n_text": fields(**GEMMA_3N),
    "gemma4_text": fields(**GEMMA_4),
    "gemma3n": Settings({"text_config": GEMMA_3N}, towers={"vision_config": GEMMA_3N_TOWER}),
    "gemma4_assistant": Settings(GEMMA_4_ASSISTANT, inputs=assistant),
    "gemma4_unified": fields(
        text_config=GEMMA_4, vision_config={"mm_embed_dim": 32, "mm_posemb_size": 16}
    ),
    "gemma4_unified_assistant": Settings(GEMMA_4_ASSISTANT, inputs=assistant),
    "git": Settings(inputs=captions),
    "glm_moe_dsa": fields(
        num_hidden_layers=6,
        first_k_dense_replace=2,
        indexer_types=["full", "shared", "shared"] * 2,
        **SMALL_MLA,
    ),
    "gpt_neo": fields(
        "eager", num_layers=6, attention_types=[[["global", "local"], 3]], window_size=4
    ),
    "gpt_oss": fields("eager", sliding_window=4, **ROUTED),
    "hy_v4": fields("eager", num_hidden_layers=6, **SMALL_MLA),
    "jamba": fields(
        num_hidden_layers=6,
        attn_layer_period=3,
        attn_layer_offset=1,
        mamba_dt_rank=4,
        **ROUTED,
    ),
    "kimi_linear": fields(num_experts_per_token=2, linear_head_dim=8, linear_num_heads=4),
    "lfm2_moe": fields(layer_types=["full_attention", "conv"] * 2),
    "longcat_flash": fields(num_layers=4, qk_rope_head_dim=8, head_dim=8),
    "mamba2": fields(num_heads=8),
    "mistral": fields(sliding_window=4),
    "mixtral": fields(**ROUTED),
    "musicgen": Settings(MUSIC, inputs=codebooks),
    "musicgen_melody": Settings(MUSIC, inputs=codebooks),
    "nemotron_h": fields(
        layers_block_type=["mamba", "moe", "attention", "mamba", "moe", "mamba"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=2,
    ),
    "phi4_multimodal": fields(
        audio_config={
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 16,
            "num_blocks": 2,
        },
    ),
    "qwen2": fields(
        num_hidden_layers=6, use_sliding_window=True, sliding_window=4, max_window_layers=2
    ),
    "qwen3": fields(tie_word_embeddings=True),
    "qwen3_moe": fields(**ROUTED),
    "qwen3_next": fields(linear_num_value_heads=4, **ROUTED),
    "qwen4_exp_text": fields(**QWEN_4),
    "qwen4_exp": fields(text_config=QWEN_4),
    "reformer": Settings(
        {
            "axial_pos_embds": False,
            "num_buckets": 4,
            "lsh_attn_chunk_length": 4,
            "local_attn_chunk_length": 4,
            "attn_layers": ["local", "lsh", "local", "lsh"],
            "attention_head_size": 8,
            "hash_seed": 1,
        },
        sizes=((2, 12), (3, 16)),
        dropout=False,  # it draws seeds of its own
    ),
    "roc_bert": fields(
        pronunciation_vocab_size=97,
        shape_vocab_size=97,
        pronunciation_embed_dim=16,
        shape_embed_dim=16,
    ),
    "rwkv": fields(rescale_every=2),
    "xmod": fields(default_language="en_XX"),
    "zamba": fields(
        num_hidden_layers=6,
        attention_head_dim=16,
        num_key_value_heads=4,
        layers_block_type=["mamba", "hybrid"] * 3,
    ),
    "zamba2": fields(
        num_hidden_layers=6,
        num_key_value_heads=4,
        layers_block_type=["mamba", "hybrid"] * 3,
        adapter_rank=8,
    ),
    "zaya": fields(num_experts_per_tok=1),
}
