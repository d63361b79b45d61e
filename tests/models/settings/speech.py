"""Settings of models of speech."""

from __future__ import annotations

from .model_type import Settings, fields

__all__ = ["SPEECH"]

SPEECH: dict[str, Settings] = {
    "granite_speech5_ctc": fields(encoder_config={"context_size": 16}),
    "wav2vec2-bert": fields(vocab_size=97),
    "wav2vec2-conformer": fields(vocab_size=97),
}
