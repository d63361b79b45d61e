"""A checkpoint that one rank cannot save is an error on all of them, and leaves all as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecodec.demo.launch import Rank

from .checkpoints import Case, build, differing, engine_of, held, start, train
from .harness import values

CASES = {"fp32": Case(), "bf16 ZeRO-1": Case(precision="bf16", zero=1, clip=0.5)}


@contextlib.contextmanager
def disk_full(folder: Path) -> Iterator[None]:
    path = folder / "mp_rank_01_model_states.pt.saving"
    folder.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")
    yield


@contextlib.contextmanager
def no_folder(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file in its place")
    yield
    assert folder.read_text() == "a file in its place"
    folder.unlink()


@contextlib.contextmanager
def raising(error: BaseException, name: str) -> Iterator[None]:
    """Let writing one of the files raise, after a part of it was written."""
    save = torch.save

    def failing(value: Any, path: Any, **options: Any) -> None:
        if name in str(path):
            Path(path).write_bytes(b"a part")
            raise error
        save(value, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", failing)
        yield


@contextlib.contextmanager
def not_replaced(error: BaseException) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:

        def replace(one: Any, other: Any) -> None:
            raise error

        patch.setattr(os, "replace", replace)
        yield


def failures(rank: Rank, folder: str, name: str) -> dict[str, Any]:
    """Return how this rank learns of each failure, and that nothing came of it."""
    start()
    case = CASES[name]
    part, root = build(case, 2), Path(folder)
    engine = engine_of(case, part)
    train(engine, case, range(1))
    assert engine.save_checkpoint(root, "good", client_state={"seen": rank.rank}) is True
    saved, results = held(engine, part), dict[str, Any]()
    train(engine, case, range(1, 2))

    def fails(
        what: str,
        how: Any = None,
        *,
        on: int = 1,
        tag: Any = "new",
        client: Any = None,
        **options: Any,
    ) -> None:
        rank.say(what)
        trouble = how if rank.rank == on and how else contextlib.nullcontext()
        with trouble:
            torch.distributed.barrier()
            with pytest.raises((Exception, KeyboardInterrupt)) as caught:
                engine.save_checkpoint(options.pop("root", root), tag, client or {}, **options)
            torch.distributed.barrier()
        results[what] = type(caught.value).__name__, str(caught.value)
        here = {path.name for path in root.iterdir()}
        if rank.rank == 0 and not here <= {"good", "latest", "zero_to_fp32.py", "zero_to_torch.py"}:
            results[what] += (sorted(here),)
        assert (root / "latest").read_text() == "good"

    second, file = rank.rank == 1, "mp_rank_01_model_states.pt"
    fails("disk full", disk_full(root / "new"))
    fails("no folder", no_folder(root / "new"), on=0)
    fails("not pickled", client={"it": lambda: 0} if second else None)
    fails("interrupted", raising(KeyboardInterrupt(), file))
    fails("over a good one", raising(OSError(28, "No space left on device"), file), tag="good")
    fails("tags", tag=f"of rank {rank.rank}")
    fails("folders", root=root / f"of rank {rank.rank}")
    fails("options", exclude_frozen_parameters=second)
    fails("key", client={"lr_scheduler": 1} if second else None)
    fails("no dict", client=[1] if second else None)
    fails("no path", root=None)
    fails("blank", tag=" x")
    results["went on"] = train(engine, case, range(2, 3))
    if rank.rank == 0:
        shutil.copytree(root / "good", root / "kept" / "good")
    torch.distributed.barrier()
    with (
        not_replaced(OSError("no more")) if second else contextlib.nullcontext(),
        pytest.raises((OSError, RuntimeError)),
    ):
        engine.save_checkpoint(root, "good")
    torch.distributed.barrier()
    with pytest.raises(ValueError) as caught:
        engine.load_checkpoint(root, "good")
    results["half"] = str(caught.value)
    engine.load_checkpoint(root / "kept", "good")
    results["changed"] = differing(saved, held(engine, part))
    train(engine, case, range(1, 2))
    engine.save_checkpoint(str(root), 7, save_latest=False)
    results["latest"] = (root / "latest").read_text()
    results["client"] = engine.load_checkpoint(root / "kept", "good")[1]["seen"]
    results["second"] = Path(engine.load_checkpoint(root, 7)[0]).parent.name, engine.global_steps
    return results


TOLD = {
    "disk full": "mp_rank_01_model_states.pt cannot be written: RuntimeError",
    "no folder": "File exists: '{}/new'",
    "not pickled": "mp_rank_01_model_states.pt cannot be written: ",
    "interrupted": "KeyboardInterrupt",
    "over a good one": "mp_rank_01_model_states.pt cannot be written: OSError: [Errno 28] No space",
    "tags": "ranks differ in the tag of a checkpoint: of rank 0 on rank 0; of rank 1 on rank 1",
    "folders": "ranks differ in the folder of a checkpoint: {}/of rank 0 on rank 0",
    "options": "ranks differ in exclude_frozen_parameters: False on rank 0; True on rank 1",
    "key": "client_state has 'lr_scheduler', and would replace DeepSpeed's own entry of that key",
    "no dict": "client_state is a list; give a dict",
    "no path": "save_dir must be the path of a folder, not None",
    "blank": "the tag ' x' is empty, or begins or ends in space",
}


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_learn_of_it_and_go_on(name: str, tmp_path: Path) -> None:
    ended = values(failures, 2, str(tmp_path), name)
    for what, text in TOLD.items():
        for number, rank in enumerate(ended):
            kind, told, *left = rank[what]
            assert not left, (what, left)
            own = "KeyboardInterrupt" if (what, number) == ("interrupted", 1) else text
            assert own.format(tmp_path) in told + kind, (what, told)
        if what in ("disk full", "not pickled", "interrupted", "over a good one", "key", "no dict"):
            kind, told = ended[0][what][:2]
            assert kind == "RemoteError"
            assert told.startswith("save_checkpoint failed on rank 1: "), what
    first, second = ended
    assert first["went on"] == second["went on"]
    for number, rank in enumerate(ended):
        assert "was not saved to its end" in rank["half"]
        assert not rank["changed"]
        assert rank["latest"] == "good" and rank["client"] == number
        assert rank["second"] == ("7", 2)


def other_ways(rank: Rank, folder: str) -> dict[str, Any]:
    """Save over another number of stages, without frozen parameters, and where it is refused."""
    start()
    root, results = Path(folder), dict[str, Any]()
    elastic = (("zero_optimization", {"stage": 1, "elastic_checkpoint": True}),)
    with pytest.raises(ValueError) as caught:
        engine_of(Case(zero=1, config=elastic), build(Case(zero=1), 4)).save_checkpoint(root)
    results["elastic"] = str(caught.value)
    engine_of(Case(), build(Case(), 4)).save_checkpoint(root, "tag")
    results["four"] = sorted(os.listdir(root / "tag"))
    torch.distributed.barrier()
    case = Case(frozen=(0, 1))
    engine = engine_of(case, build(case, 2), 2)
    engine.save_checkpoint(root, "tag", exclude_frozen_parameters=True)
    results["two"] = sorted(os.listdir(root / "tag"))
    results["loads"] = engine.load_checkpoint(root, load_module_strict=False)[0] is not None
    return results


def test_saves_over_another_number_of_stages(tmp_path: Path) -> None:
    for rank in values(other_ways, 4, str(tmp_path)):
        assert "DeepSpeed saves no step count of this optimizer" in rank["elastic"]
        assert len(rank["four"]) == 9 and len(rank["two"]) == 5
        assert "layer_02-model_states.pt" not in rank["two"] and rank["loads"]
