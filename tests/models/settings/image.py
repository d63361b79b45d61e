"""Settings of image classifiers whose sizes are lists, one for each of their own stages."""

from __future__ import annotations

from ..inputs import patches, pixels_as_words
from ..pictures import captioned
from .model_type import Settings, fields

__all__ = ["IMAGE_CLASSIFICATION", "PERCEIVER"]

SWIN = {"embed_dim": 16, "window_size": 2, "image_size": 64}
PERCEIVER = {
    "num_latents": 8,
    "d_latents": 32,
    "num_self_attends_per_block": 6,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 4,
    "vocab_size": 262,
}

IMAGE_CLASSIFICATION: dict[str, Settings] = {
    "bit": fields(embedding_size=16, num_groups=8),
    "convnext": fields(image_size=64),
    "convnextv2": fields(image_size=64),
    "cvt": fields(embed_dim=(16, 32, 32), depth=(1, 2, 3), num_heads=(1, 2, 2)),
    "donut-swin": fields(**SWIN),
    "efficientnet": fields(
        width_coefficient=0.25, depth_coefficient=1.0, hidden_dim=320, image_size=32
    ),
    "focalnet": fields(embed_dim=16, image_size=32),
    "hgnet_v2": fields(
        embedding_size=8,
        stem_channels=(3, 8, 8),
        stage_in_channels=(8, 16, 16, 16),
        stage_mid_channels=(8, 8, 8, 8),
        stage_out_channels=(16, 16, 16, 16),
        stage_num_blocks=(1, 1, 2, 1),
        stage_numb_of_layers=(2, 2, 2, 2),
        hidden_sizes=[16, 16, 16, 16],
    ),
    "hiera": fields(
        embed_dim=8, image_size=(32, 32), num_heads=(1, 1, 2, 2), masked_unit_size=(8, 8)
    ),
    "imagegpt": Settings(inputs=pixels_as_words),
    "levit": fields(
        hidden_sizes=(16, 32, 48),
        num_attention_heads=(2, 2, 2),
        key_dim=(4, 4, 4),
        depths=(2, 2, 2),
        image_size=64,
        patch_size=16,
    ),
    "mobilevit": fields(
        hidden_sizes=(16, 24, 32),
        neck_hidden_sizes=(8, 8, 16, 16, 16, 16, 32),
        num_attention_heads=2,
        image_size=64,
        patch_size=2,
    ),
    "mobilevitv2": fields(
        base_attn_unit_dims=(16, 24, 32),
        n_attn_blocks=(1, 2, 1),
        width_multiplier=0.25,
        image_size=64,
        patch_size=2,
    ),
    "perceiver": fields(**PERCEIVER),
    "pvt": fields(image_size=64, sequence_reduction_ratios=(2, 2, 1, 1)),
    "pvt_v2": fields(image_size=(64, 64), sr_ratios=(2, 2, 1, 1)),
    "regnet": fields(embedding_size=16, groups_width=8),
    "resnet": fields(embedding_size=16),
    "shieldgemma2": Settings({"mm_tokens_per_image": 4}, inputs=captioned),
    "siglip2": Settings(inputs=patches),
    "swin": fields(**SWIN),
    "swinv2": fields(**SWIN),
    "textnet": fields(stem_out_channels=8, hidden_sizes=(8, 8, 16, 16, 16), image_size=(32, 32)),
}
