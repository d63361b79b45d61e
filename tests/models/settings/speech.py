"""Settings of models of speech."""

from __future__ import annotations

from ..sound import spectrogram, whole_spectrum
from .model_type import Settings, fields

__all__ = ["SPEECH"]

SPEECH: dict[str, Settings] = {
    "granite_speech5_ctc": fields(encoder_config={"context_size": 16, "input_dim": 32}),
    "audio-spectrogram-transformer": Settings(
        {"max_length": 32, "frequency_stride": 4, "time_stride": 4}, inputs=spectrogram
    ),
    "sew": fields(conv_dim=(8,) * 13),
    "sew-d": fields(conv_dim=(8,) * 13),
    "whisper": Settings(inputs=whole_spectrum),
    "wav2vec2-bert": fields(vocab_size=97),
    "wav2vec2-conformer": fields(vocab_size=97),
}
