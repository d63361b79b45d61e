"""Imported once by the server that the tests' ranks are forked from.

DeepSpeed's optimizers for bf16 and for ZeRO import torch's compiler with the first of these, which
takes most of a second; and they collect garbage, which takes as long where it looks at every object
of all that was imported. Both was done in every rank.
"""

from __future__ import annotations

import gc

import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401

gc.freeze()

__all__: list[str] = []
