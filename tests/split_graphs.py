"""Models that other tools split, and the comparison of their stages with them."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import fx, nn
from torch.distributed.pipelining import SplitPoint, pipeline
from torch.fx.passes.split_module import split_module
from torch.utils import _pytree as pytree

WARNINGS = [
    # torch's own, when it copies an exported program
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # torch's own pipeline(), in 2.9
    pytest.mark.filterwarnings("ignore:.*export_for_training.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:While exporting, we found certain side effects"),
]


def gpt2(**options):
    config = transformers.GPT2Config(
        n_layer=3, n_embd=16, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0,
        eos_token_id=0, use_cache=False, loss_type="ForCausalLM",
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **options},
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def gpt2_batch(rows=2):
    ids = torch.arange(rows * 8).reshape(rows, 8) % 50
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.flip(1)}


def bert():
    config = transformers.BertConfig(
        num_hidden_layers=3, hidden_size=16, num_attention_heads=2, intermediate_size=32,
        vocab_size=50, max_position_embeddings=16, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, problem_type="single_label_classification",
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def bert_batch():
    return {**gpt2_batch(), "labels": torch.tensor([0, 1])}


def t5():
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2,
        vocab_size=50, use_cache=False, decoder_start_token_id=0, pad_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config)


def t5_batch():
    batch = gpt2_batch()
    decoder_input_ids = batch.pop("labels")[:, :6].contiguous()
    return {**batch, "decoder_input_ids": decoder_input_ids}


MODELS = {
    "gpt2": (gpt2, gpt2_batch, ["transformer.h.1", "transformer.h.2"]),
    "bert": (bert, bert_batch, ["bert.encoder.layer.1", "bert.encoder.layer.2"]),
    "t5": (t5, t5_batch, ["decoder.block.0", "decoder.block.1"]),
}


def pipe_of(model, batch, cuts):
    return pipeline(model, (), batch, dict.fromkeys(cuts, SplitPoint.BEGINNING))


def leaves(value):
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def run(function, model, *args, **kwargs):
    """Return the output's tensors and all gradients of the model's parameters."""
    torch.manual_seed(1)
    output = leaves(function(*args, **kwargs))
    sum(leaf.float().square().mean() for leaf in output if leaf.requires_grad).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return output, gradients


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def same(found, expected):
    return (
        equal(found[0], expected[0])
        and [g is None for g in found[1].values()] == [g is None for g in expected[1].values()]
        and equal(*([g for g in each[1].values() if g is not None] for each in (found, expected)))
    )


class Skips(nn.Module):
    """Skips over stages, an output that takes values of early stages, a weight of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("shift", torch.rand(4), persistent=False)

    def forward(self, x, unused, mask=None, factor=2):
        rows = x.shape[0]
        early = self.a(x) * self.scale
        pair = (early.tanh(), early.sin())
        middle = self.b(pair[0]) + self.shift
        late = self.c(middle) * self.scale * factor + pair[1]
        late = late.reshape(rows, 4)
        return {"late": [late, early], "same": late, "size": rows, "mask": mask, "number": 3}


STAGE_OF = {"getattr_1": 0, "getitem": 0, "a": 0, "b": 1, "add": 1}


def split_skips(model, stage_of=STAGE_OF, **options):
    traced = fx.symbolic_trace(model)
    stages = {}
    latest = 0
    for node in traced.graph.nodes:
        latest = max(latest, {"b": 1, "c": 2}.get(node.name, 0))
        stages[node.name] = stage_of.get(node.name, latest)
    return split_module(traced, None, lambda node: stages[node.name], **options)
