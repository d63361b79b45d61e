"""Each example runs as a user starts it, and trains as one process does."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS = 2
EXACT = 0.0

CASES: dict[str, tuple[int, float]] = {
    "export": (2, EXACT),
    "glm_moe_dsa": (3, EXACT),
    "hugging_face": (2, 1e-6),  # clipping sums the squares of gradients in another order
    "images": (2, EXACT),
    "t5": (3, 1e-6),  # the sum of a tied weight's gradients is taken in another order
    "varying_lengths": (2, EXACT),
}
"""Those that save the model: the number of processes, and the largest difference of a weight."""

OTHERS = {"change_stages", "channel", "lora", "packed", "torch_pipelining"}


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(launcher: list[str], name: str, *options: object) -> str:
    """Run the example to its end, and return its output."""
    command = [sys.executable, *launcher, str(EXAMPLES / f"{name}.py"), *map(str, options)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def torchrun(processes: int, name: str, *options: object) -> str:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return start(launcher, name, *options)


def deepspeed(processes: int, name: str, *options: object) -> str:
    """With DeepSpeed's launcher, on a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "deepspeed.launcher.runner", f"--num_gpus={processes}"]
    return start([*launcher, f"--master_port={port}"], name, *options)


def in_one_process(
    example: Any, steps: int, build: Callable[[], Any] | None = None
) -> dict[str, torch.Tensor]:
    """Train the example's model on its batches, in plain torch; return the state dict."""
    model = (build or example.build_model)()
    optimizer = example.adamw([p for p in model.parameters() if p.requires_grad])
    model.train()
    for step in range(steps):
        batches = list(example.micro_batches(step))
        for batch in batches:
            (model(**batch).loss / len(batches)).backward()
        clip = example.CONFIG["gradient_clipping"]
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def assert_equal(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], difference: float
) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if difference == EXACT:
            assert torch.equal(found[name], value), name
        torch.testing.assert_close(found[name], value, rtol=0, atol=difference)


def saved_model(example: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return the state dict as plain transformers loads it."""
    return type(example.build_model()).from_pretrained(folder).state_dict()


def test_each_example_is_short_and_is_run() -> None:
    files = sorted(EXAMPLES.iterdir())
    names = {file.stem for file in files if file.suffix == ".py"}
    assert names == {*CASES, *OTHERS}
    for name in names:
        text = (EXAMPLES / f"{name}.py").read_text()
        assert len(text.splitlines()) < 80, name
        assert f"examples/{name}.py" in text.split('"""')[1]  # how to start it


@pytest.mark.parametrize("name", CASES)
def test_weights(name: str, tmp_path: Path) -> None:
    processes, difference = CASES[name]
    options = ["--steps", STEPS, "--save", tmp_path]
    printed = (deepspeed if name == "images" else torchrun)(processes, name, *options)
    assert "step 0: loss " in printed
    example = load(name)
    assert_equal(saved_model(example, tmp_path), in_one_process(example, STEPS), difference)
    if name == "export":
        assert printed.count("equal logits: True") == 4


def test_lora(tmp_path: Path) -> None:
    """Plain PEFT loads the adapter, and the base model's weights stay as they were."""
    from peft import PeftModel

    torchrun(2, "lora", "--steps", STEPS, "--save", tmp_path)
    example = load("lora")
    found = PeftModel.from_pretrained(example.build_model(), tmp_path).state_dict()
    trained = in_one_process(
        example, STEPS, build=lambda: example.with_adapters(example.build_model())
    )
    assert_equal(found, trained, EXACT)
    untrained = example.with_adapters(example.build_model()).state_dict()
    moved = {name for name, value in found.items() if not torch.equal(value, untrained[name])}
    assert moved == {name for name in found if "lora" in name}


def test_change_stages(tmp_path: Path) -> None:
    """2 stages, then 3: the weights are those of a run that was not stopped."""
    checkpoint, saved = tmp_path / "checkpoint", tmp_path / "saved"
    torchrun(2, "change_stages", "--checkpoint", checkpoint, "--steps", 1)
    printed = torchrun(
        3, "change_stages", "--checkpoint", checkpoint, "--steps", 3, "--save", saved
    )
    assert "step 0" not in printed and "step 1: loss " in printed
    trained = in_one_process(load("change_stages"), 3)
    assert_equal(saved_model(load("change_stages"), saved), trained, EXACT)


def test_channel(tmp_path: Path) -> None:
    """Both sides end with the weights of one process that does both sides' work."""
    printed = torchrun(2, "channel", "--steps", 3, "--save", tmp_path / "weights")
    example = load("channel")
    model = example.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        with torch.no_grad():
            drawn = example.samples(model, step)["samples"]
        for sample in drawn:
            tokens = sample["tokens"]
            loss = torch.nn.functional.cross_entropy(model(tokens[:-1]), tokens[1:])
            (sample["reward"] * loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert f"step {step}: {len(drawn)} samples, loss {loss.item():.3f}" in printed
    for rank in range(2):
        assert_equal(torch.load(tmp_path / f"weights-{rank}.pt"), model.state_dict(), EXACT)


def test_packed() -> None:
    """Each loss is that of one process, to the last bit."""
    printed = torchrun(3, "packed", "--steps", STEPS).splitlines()
    example = load("packed")
    embed, block, head = example.build_stages(3)
    optimizer = example.adamw([p for stage in (embed, block, head) for p in stage.parameters()])
    for step in range(STEPS):
        total = torch.zeros(())
        for batch in example.micro_batches(step):
            tokens, ends, lengths, labels = batch.values()
            hidden = block(**embed(tokens, ends), lengths=lengths)
            loss = head(**hidden, labels=labels)["loss"]
            (loss / example.MICRO_BATCHES).backward()
            total += loss.detach()
        assert f"step {step}: loss {(total / example.MICRO_BATCHES).item()!r}" in printed
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)  # DeepSpeed's default
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # it loads in one process
def test_torch_pipelining(tmp_path: Path) -> None:
    saved, schedule = tmp_path / "saved", "ZBVZeroBubble"
    printed = torchrun(
        2, "torch_pipelining", "--schedule", schedule, "--steps", STEPS, "--save", saved
    )
    assert printed.startswith("step 0: loss 4.8")
    example = load("torch_pipelining")
    model = example.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for ids in example.batches(STEPS):
        optimizer.zero_grad()
        for part in ids.chunk(4):
            (example.loss_fn(model(input_ids=part), part) / 4).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    found = example.build_model().state_dict()
    dcp.load(found, checkpoint_id=str(saved))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5)
