"""Settings of models of speech."""

from __future__ import annotations

from ..sound import heard, spectrogram, whole_spectrum
from .model_type import Settings, fields

__all__ = ["SPEECH"]

SPEECH: dict[str, Settings] = {
    "granite_speech5_ctc": fields(
        encoder_config={"context_size": 16, "input_dim": 64, "num_key_value_heads": 4}
    ),
    "audio-spectrogram-transformer": Settings(
        {"max_length": 32, "frequency_stride": 4, "time_stride": 4}, inputs=spectrogram
    ),
    "audioflamingo3": Settings(inputs=heard),
    "glmasr": Settings({"audio_config": {"intermediate_size": 128}}, inputs=heard),
    "voxtral": Settings(
        {"audio_config": {"intermediate_size": 128}, "audio_token_id": 9}, inputs=heard
    ),
    "sew": fields(conv_dim=(8,) * 13),
    "sew-d": fields(conv_dim=(8,) * 13),
    "whisper": Settings(inputs=whole_spectrum),
    "speech-encoder-decoder": fields(
        encoder={"model_type": "wav2vec2"},
        decoder={"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
        pad_token_id=0,
    ),
    "wav2vec2-bert": fields(vocab_size=97),
    "wav2vec2-conformer": fields(vocab_size=97),
}
