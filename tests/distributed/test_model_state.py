"""A model that was trained in a pipeline is the plain model afterwards, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipecodec import partition_modules
from pipecodec.deepspeed import checkpoint_state_dict, load_model_state_dict, model_state_dict
from pipecodec.demo.launch import Rank

from .engines import join
from .harness import values
from .tied import Case, build, engine_of

STEPS = 3
CASES = {
    "gpt2 pp3": Case("gpt2", 3),
    "gpt2 pp2 dp2, bf16 ZeRO-1": Case("gpt2", 2, replicas=2, bf16=True, zero=1),
    "gpt2 pp2 tp2, fp32 ZeRO-1": Case("gpt2", 2, tensor=2, zero=1),
    "llama pp4, bf16 ZeRO-0": Case("llama", 4, bf16=True),
    "dual pipe": Case(("a b", "b", "c b", "a c"), 2, schedule="dualpipev"),
}


def evaluation(case: Case) -> list[dict[str, Tensor]]:
    return list(case.batches(100, 0))


def by_pipeline(engine: Any, case: Case) -> tuple[float, Any]:
    """Return the loss, and the bits of the last micro-batch's output on the last stage."""
    loss, output = engine.eval_batch(iter(evaluation(case)), return_logits=True)
    return loss.item(), None if output is None else bits(output)


def by_model(model: nn.Module, loss: Any, case: Case) -> tuple[float, Any]:
    model.eval()
    losses = []
    with torch.no_grad():
        for batch in evaluation(case):
            labels = batch.pop("labels")
            output = model(**batch)
            output = getattr(output, "logits", output)
            losses.append(loss(output, labels))
    return (sum(losses) / len(losses)).item(), bits(output)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert list(one) == list(other)
    return [k for k in one if one[k].dtype != other[k].dtype or not torch.equal(one[k], other[k])]


def another(case: Case) -> tuple[nn.Module, Any]:
    """Return a plain model with other weights, which are the same in every process.

    As the engine does it, bf16 is for parameters and leaves buffers alone.
    """
    model, _, loss = build(case)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) / 10)
            if case.bf16:
                parameter.data = parameter.bfloat16()
    return model, loss


def there_and_back(rank: Rank, case: Case, folder: str) -> dict[str, Any]:
    join()
    model, stages, loss = build(case)
    part = partition_modules(stages, model=model)
    engine = engine_of(case, part, loss)
    for step in range(STEPS):
        engine.train_batch(case.batches(step, engine.grid.get_data_parallel_rank()))
    trained = by_pipeline(engine, case)
    state = model_state_dict(engine, part)
    engine.save_checkpoint(folder, tag="trained")
    plain, _ = another(case)
    given = {key: value.clone() for key, value in plain.state_dict().items()}
    load_model_state_dict(engine, part, given)
    keys = {f"{k}.mod.{path}" for k, stage in enumerate(part.stages) for path in stage.state_dict()}
    own = {key.split(".")[0] for key in engine.module.state_dict()}
    result = {
        "foreign": {key for key in keys if key.split(".")[0] in own}
        ^ {*engine.module.state_dict()},
        "trained": trained,
        "given": by_pipeline(engine, case),
        "given, plain": by_model(plain, loss, case),
        "state": state is not None,
    }
    again = model_state_dict(engine, part)
    if state is not None and again is not None:
        plain.load_state_dict(state)
        result["trained, plain"] = by_model(plain, loss, case)
        result["round trip"] = differing(again, given)
        result["checkpoint"] = differing(checkpoint_state_dict(part, folder), state)
        result["moved"] = len(differing(state, given))
    return result


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    first, *others = ended = values(there_and_back, case.grid.processes, case, str(tmp_path))
    assert first["state"] and not any(other["state"] for other in others)
    assert not any(rank["foreign"] for rank in ended)
    assert first["moved"] and not first["round trip"] and not first["checkpoint"]
    for what in ("trained", "given"):
        loss, output = first[f"{what}, plain"]
        assert {rank[what][0] for rank in ended} == {loss}
        outputs = {rank[what][1] for rank in ended} - {None}
        assert output in outputs


def with_masters(rank: Rank) -> list[Any]:
    """Load a bf16 optimizer's fp32 weights, changed a little, and get them back."""
    join()
    found = []
    for zero in (0, 1):
        case = Case(("a b", "b a"), 2, replicas=2, bf16=True, zero=zero)
        model, stages, loss = build(case)
        part = partition_modules(stages, model=model)
        engine = engine_of(case, part, loss)
        engine.train_batch(case.batches(0, engine.grid.get_data_parallel_rank()))
        states = []
        for loaded in (False, True):
            kept = model_state_dict(engine, part, masters=True)
            computed = model_state_dict(engine, part)
            everyones = [None]
            if kept is not None and computed is not None:
                assert not differing({k: v.bfloat16() for k, v in kept.items()}, computed)
                states.append(kept)
                everyones = [{key: value * (1 - 2.0**-12) for key, value in kept.items()}]
            torch.distributed.broadcast_object_list(everyones)
            if not loaded:
                load_model_state_dict(engine, part, everyones[0])
                given = everyones[0]
        if states:
            rounded = [key for key, v in given.items() if not torch.equal(v, v.bfloat16().float())]
            found.append((differing(states[1], given), len(rounded), len(given)))
    return found


def test_weights_of_the_optimizer_keep_their_precision() -> None:
    first, *_ = values(with_masters, 4)
    assert first == [([], 8, 8)] * 2


def refusals(rank: Rank) -> list[str]:
    join()
    case = Case(("a", "a"), 2)
    model, stages, loss = build(case)
    part = partition_modules(stages, model=model)
    engine = engine_of(case, part, loss)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    messages = []

    def refused(function: Any, *args: Any) -> None:
        with pytest.raises(ValueError) as caught:
            function(engine, part, *args)
        messages.append(str(caught.value))

    refused(load_model_state_dict, {k: v for k, v in state.items() if k != "stages.1.own.bias"})
    refused(load_model_state_dict, {**state, "stages.1.own.bias": torch.zeros(4)})
    refused(load_model_state_dict, state if rank.rank == 0 else None)
    last = engine.module.forward_funcs[0].mod
    if rank.rank == 1:
        last.own = nn.Sequential(last.own)
    refused(model_state_dict)
    if rank.rank == 0:
        last.own.weight.tensor_model_parallel = True
    refused(model_state_dict)
    refused(load_model_state_dict, state)
    return messages


def test_every_rank_is_told_what_does_not_fit() -> None:
    first, second = values(refusals, 2)
    assert first == second
    missing, shape, nothing, changed, *sharded = first
    assert "the state dict has no 'stages.1.own.bias', which is 'own.bias' of stage 1" in missing
    assert missing.endswith("(ranks 0, 1)")
    assert "size mismatch for own.bias" in shape and shape.endswith("(rank 1)")
    assert nothing.endswith("(rank 1)")
    assert "stage 1 has no 'own.weight', which is the model's 'stages.1.own.weight'" in changed
    for message in sharded:
        assert message.startswith("own.weight of stage 0 is sharded over tensor-parallel ranks")


def test_a_checkpoint_must_hold_every_stage(tmp_path: Path) -> None:
    model, stages, _ = build(Case(("a", "a"), 2))
    part = partition_modules(stages, model=model)
    folder = tmp_path / "step"
    folder.mkdir()
    with pytest.raises(ValueError, match="has no file latest, which"):
        checkpoint_state_dict(part, tmp_path)
    for rank in range(2):
        state = {f"mod.{key}": value for key, value in stages[0].state_dict().items()}
        state["mod.own.bias"] = state["mod.own.bias"] + rank
        torch.save(state, folder / f"layer_00-model_{rank:02d}-model_states.pt")
    with pytest.raises(ValueError, match="2 tensor-parallel ranks hold parts of stage 0"):
        checkpoint_state_dict(part, tmp_path, "step")
    (folder / "layer_00-model_01-model_states.pt").unlink()
    with pytest.raises(ValueError, match="so nothing of stage 1; it was saved by another"):
        checkpoint_state_dict(part, tmp_path, "step")
