"""Small stages of a language model, the model that they make up, and stages of any signature."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["INPUTS", "OUTPUTS", "Block", "Embed", "Function", "Head", "Model", "four_stages"]


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(7, 4)

    def forward(self, ids, mask=None):
        hidden = self.wte(ids)
        return {"hidden": hidden, "bias": None if mask is None else mask.float()}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden, bias=None):
        hidden = hidden + self.linear(hidden).tanh()
        return hidden if bias is None else hidden * bias.unsqueeze(-1)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.lm_head = nn.Linear(4, 7, bias=False)

    def forward(self, hidden, labels=None):
        logits = self.lm_head(hidden)
        if labels is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits


class Model(nn.Module):
    """What the stages Embed, Block, Block, Head compute together."""

    def __init__(self, stages):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, ids, mask=None, labels=None):
        embed, first, second, head = self.stages
        both = embed(ids, mask)
        hidden = second(first(both["hidden"], both["bias"]), both["bias"])
        return head(hidden, labels)


class Function(nn.Module):
    """A stage whose forward has the given parameters."""

    def __init__(self, signature, body):
        super().__init__()
        namespace = {"body": body}
        exec(f"def forward({signature}):\n    return body(locals())", namespace)
        self.forward = namespace["forward"]


OUTPUTS = [["hidden", "bias"], "hidden", "hidden", None]
INPUTS = ["ids", "mask", "labels"]


def four_stages():
    torch.manual_seed(0)
    return [Embed(), Block(), Block(), Head()]
