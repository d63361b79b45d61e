"""Settings of masked language models, and of sequence-to-sequence models of text."""

from __future__ import annotations

from ..inputs import language
from .causal_lm import CAUSAL_LM
from .image import PERCEIVER
from .model_type import Settings, fields

__all__ = ["MASKED_LM", "SEQ2SEQ"]

MASKED_LM: dict[str, Settings] = {
    "esm": fields(position_embedding_type="rotary", vocab_size=97),
    "esmc": fields(num_key_value_heads=4),
    "funnel": fields(block_sizes=[2, 2, 2], num_decoder_layers=2),
    "luke": fields(entity_vocab_size=50, entity_emb_size=16),
    "neomme": fields(head_dim=16),
    "perceiver": fields(sizes=((2, 64), (3, 64)), **PERCEIVER),
    **{name: CAUSAL_LM[name] for name in ("reformer", "roc_bert", "xmod")},
}

SEQ2SEQ: dict[str, Settings] = {
    "encoder-decoder": fields(
        encoder={"model_type": "bert"},
        decoder={"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
        pad_token_id=0,
    ),
    "fsmt": Settings({"src_vocab_size": 97, "tgt_vocab_size": 97}, inputs=language),
}
