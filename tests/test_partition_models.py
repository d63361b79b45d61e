"""Two dozen model types of transformers, cut in three stages: equal to the model to the last bit.

`python -m tests.models` does the same for all types.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pipecodec

pytest.importorskip("transformers")
import transformers
from transformers import AutoModelForSequenceClassification

from .models.block_residuals import VOCABULARY, BlockResiduals
from .models.build import MAPPINGS, Case, Inputs, build
from .models.check import (
    DROPOUT,
    STAGES,
    check_case,
    cut_and_compare,
    first_difference,
    half_of_uses,
    uses,
)
from .models.compare import run_detached

CAUSAL = """gpt2 llama qwen2 mixtral gemma2 gemma3_text gemma3n_text gemma4_text opt gpt_neo falcon
bloom deepseek_v3 deepseek_v4 glm_moe_dsa hy_v4 qwen3_next nemotron_h mamba2 jamba gpt_oss
kimi_linear""".split()
OTHERS = [
    ("masked-lm", "bert"),
    ("image-classification", "vit"),
    ("seq2seq", "t5"),
    ("seq2seq", "bart"),
    ("speech-seq2seq", "whisper"),
    ("image-text-to-text", "llava"),
    ("image-text-to-text", "qwen3_vl"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    yield
    torch.set_num_threads(threads)
    logging.disable(disabled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mapping", "model_type"), [*(("causal-lm", name) for name in CAUSAL), *OTHERS]
)
def test_a_model_in_three_stages(mapping: str, model_type: str) -> None:
    if model_type not in MAPPINGS[mapping]:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    case = build(mapping, model_type, DROPOUT)
    case.model(**case.inputs(*case.sizes[1], 2, False))  # as a model that ran before
    first = case.inputs(*case.sizes[0], 1, True)
    outcome = cut_and_compare(case, first, (), half_of_uses(case))
    assert outcome.verdict == "right", outcome.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mapping", "model_type"), [("masked-lm", "bert"), ("causal-lm", "llama")])
def test_a_head_that_classifies_sequences(mapping: str, model_type: str) -> None:
    language = build(mapping, model_type, DROPOUT)
    config = language.model.config
    config.num_labels, config.pad_token_id = 3, 0
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    assert type(model).__name__.endswith("ForSequenceClassification")

    def inputs(batch: int, length: int, seed: int, padded: bool) -> dict[str, Any]:
        values = language.inputs(batch, length, seed, padded)
        return values | {"labels": values["input_ids"][:, 0] % 3}

    case = Case(model, inputs, language.sizes)
    first = inputs(*case.sizes[0], 1, True)
    outcome = cut_and_compare(case, first, (), half_of_uses(case))
    assert outcome.verdict == "right", outcome.text


def with_more(case: Case, **more: Any) -> Case:
    def inputs(batch: int, length: int, seed: int, padded: bool) -> dict[str, Any]:
        return case.inputs(batch, length, seed, padded) | more

    return Case(case.model, inputs, case.sizes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("more", [{"use_cache": True}, {"output_hidden_states": True}], ids=str)
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "jamba"])
def test_caches_and_hidden_states_reach_the_output(model_type: str, more: dict[str, Any]) -> None:
    case = with_more(build("causal-lm", model_type, DROPOUT), **more)
    first = case.inputs(*case.sizes[0], 1, True)
    outcome = cut_and_compare(case, first, (), half_of_uses(case))
    assert outcome.verdict == "right", outcome.text
    output = case.model(**case.inputs(2, 12, 1, True))
    assert output.hidden_states if "output_hidden_states" in more else output.past_key_values


def block_residuals() -> Case:
    torch.manual_seed(0)

    def inputs(batch: int, length: int, seed: int, padded: bool) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        ids, labels = (
            torch.randint(0, VOCABULARY, (batch, length), generator=generator) for _ in range(2)
        )
        return {"input_ids": ids, "labels": labels}

    checked: Inputs = inputs
    return Case(BlockResiduals(), checked, ((2, 12), (3, 17)))


def test_residuals_that_all_later_stages_read() -> None:
    case = block_residuals()
    outcome = check_case(case, uses(case))
    assert outcome.verdict == "right", outcome.text
    part = pipecodec.partition(case.model, kwargs=case.inputs(2, 12, 1, False), n_stages=4)
    crossing: dict[int, int] = {}

    def count(boundary: int, values: dict[str, Any]) -> None:
        leaves = torch.utils._pytree.tree_leaves(list(values.values()))
        crossing[boundary] = sum(leaf.requires_grad for leaf in leaves if torch.is_tensor(leaf))

    run_detached(part, case.model, case.inputs(2, 12, 1, False), count)
    assert list(crossing.values()) == [2, 3, 4]  # the embedding, and what blocks gave so far


@pytest.mark.filterwarnings("ignore")
def test_the_comparison_sees_faults() -> None:
    case = build("causal-lm", "llama")
    inputs = case.inputs(2, 12, 1, True)
    part = pipecodec.partition(case.model, kwargs=inputs, n_stages=STAGES)
    assert first_difference(part, case, inputs) is None
    layer = case.model.get_submodule("model.layers.3")

    def nudge(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(module)
        plain = output.detach()
        return output if len(calls) < 2 else output + (plain.nextafter(plain + 1) - plain)

    calls: list[torch.nn.Module] = []
    with layer.register_forward_hook(nudge):
        assert "output" in str(first_difference(part, case, inputs))

    def lose(module: torch.nn.Module, gradients: Any) -> Any:
        calls.append(module)
        return None if len(calls) < 2 else tuple(2 * g for g in gradients if g is not None)

    calls.clear()
    with layer.register_full_backward_pre_hook(lose):
        assert "gradient of" in str(first_difference(part, case, inputs))
