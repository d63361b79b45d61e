"""The settings of each model type beside the generic sizes, by mapping."""

from __future__ import annotations

from .causal_lm import CAUSAL_LM
from .image import IMAGE_CLASSIFICATION
from .masked_lm import MASKED_LM, SEQ2SEQ
from .model_type import Settings
from .pictures import IMAGE_TEXT
from .speech import SPEECH

__all__ = ["Settings", "settings_of"]

BY_MAPPING: dict[str, dict[str, Settings]] = {
    "causal-lm": CAUSAL_LM,
    "image-classification": IMAGE_CLASSIFICATION,
    "masked-lm": MASKED_LM,
    "image-text-to-text": IMAGE_TEXT,
    "ctc": SPEECH,
    "audio-classification": SPEECH,
    "speech-seq2seq": SPEECH,
    "seq2seq": SPEECH | SEQ2SEQ,
}


def settings_of(mapping: str, model_type: str) -> Settings:
    """Return the settings of a type in a mapping."""
    return BY_MAPPING.get(mapping, {}).get(model_type, Settings())
