"""Settings of models of images and text."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..inputs import captions, language
from ..media import text_with
from ..pictures import (
    placed_patches,
    questions,
    several_images,
    siglip_patches,
    square_patches,
    tiled_images,
    whole_and_part,
)
from .causal_lm import CAUSAL_LM
from .model_type import Settings, fields

__all__ = ["IMAGE_TEXT"]


def rotary(*sections: int, **more: Any) -> dict[str, Any]:
    """Return a config of text with these sections of rotary positions."""
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    return {"text_config": {"rope_parameters": parameters | more}}


IMAGE_TEXT: dict[str, Settings] = {
    "aria": fields(projector_patch_to_query_dict={16: 4}),
    "blip-2": fields(image_token_index=5),
    "cohere2_vision": fields(alignment_intermediate_size=64),
    "cohere_compass": fields(text_config=CAUSAL_LM["cohere_compass_text"].overrides),
    "cosmos3_edge": fields(**rotary(2, 1, 1)),
    "deepseek_vl": Settings(),
    "florence2": fields(
        vision_config={
            "embed_dim": (8, 16, 16, 32),
            "num_heads": (2, 2, 2, 2),
            "num_groups": (2, 2, 2, 2),
        }
    ),
    "gemma3": fields(mm_tokens_per_image=4),
    "gemma3n": dataclasses.replace(CAUSAL_LM["gemma3n"], inputs=language),
    "gemma4": Settings(inputs=text_with("image", placed_patches)),
    "glm46v": fields(**rotary(1, 1, 0, partial_rotary_factor=0.5)),
    "glm4v": fields(**rotary(2, 1, 1)),
    "glm4v_moe": fields(**rotary(1, 1, 0, partial_rotary_factor=0.5)),
    "glm_ocr": fields(**rotary(2, 1, 1)),
    "glmga": fields(**rotary(2, 1, 1)),
    "hunyuan_vl": fields(vision_config={"max_image_size": 64}, **rotary(2, 1, 1)),
    "instructblip": Settings({"image_token_index": 5}, inputs=questions),
    "idefics2": Settings(inputs=text_with("image", several_images)),
    "idefics3": Settings(inputs=text_with("image", several_images)),
    "lfm2_vl": Settings(inputs=text_with("image", siglip_patches)),
    "llama4": fields(
        vision_config={
            "intermediate_size": 128,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "vision_output_dim": 32,
        }
    ),
    **{
        name: Settings(
            {"image_grid_pinpoints": [[16, 16]]}, inputs=text_with("image", whole_and_part)
        )
        for name in ("llava_next", "llava_next_video", "llava_onevision")
    },
    "mllama": Settings(
        {
            "text_config": {"cross_attention_layers": [1, 3]},
            "vision_config": {"intermediate_layers_indices": [1, 2], "vision_output_dim": 96},
        },
        inputs=text_with("image", tiled_images),
    ),
    "qwen2_5_omni_thinker": fields(vision_start_token_id=6, **rotary(2, 1, 1)),
    "qwen3_omni_moe_thinker": fields(
        audio_config={"downsample_hidden_size": 16}, vision_start_token_id=6, **rotary(2, 1, 1)
    ),
    "paddleocr_vl": Settings(inputs=text_with("image", square_patches)),
    "qwen2_5_vl": fields(**rotary(2, 1, 1)),
    "qwen2_vl": fields(**rotary(2, 1, 1)),
    "qwen4_exp": CAUSAL_LM["qwen4_exp"],
    "shieldgemma2": fields(mm_tokens_per_image=4),
    "smolvlm": Settings(inputs=text_with("image", several_images)),
    "vision-encoder-decoder": Settings(
        {
            "encoder": {"model_type": "vit"},
            "decoder": {"model_type": "gpt2", "is_decoder": True, "add_cross_attention": True},
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
        },
        inputs=captions,
    ),
    "udop": fields(decoder_start_token_id=1),
    "vipllava": fields(vision_feature_layers=[-1, -2]),
}
