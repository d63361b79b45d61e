"""``engine.save_checkpoint`` that succeeds on all ranks or on none.

1. every rank writes its files beside those that they will replace, and describes itself
2. the file of ours says that the folder is being written to
3. every rank puts its files in place
4. the file of ours is written whole, then ``latest``

A rank that fails is known to all after each step. Before 3 a failure leaves all as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..engine.agree import agree
from ..engine.error_text import summary
from ..engine.everywhere import everywhere
from .checkpoint_files import INDEX, fingerprint, saved_files, write_whole
from .checkpoint_index import COUNTERS, common_of, own_of

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["saving"]

_NAME = "save_checkpoint"


def saving(engine: Any, part: Partition) -> Callable[..., bool]:
    """Return a function that replaces this engine's ``save_checkpoint``.

    Its arguments are the same. All ranks call it together, and with the same arguments but for
    ``client_state``, of which the first replica of each stage saves its own. If it fails on a rank,
    that one raises its error and the others a ``RemoteError`` with its text; the checkpoints so far
    and ``latest`` are as they were, and the engine goes on. ``ValueError`` if ranks differ in their
    arguments, or ``client_state`` has a key that DeepSpeed's own state has.
    """
    stock = engine.save_checkpoint

    def save_checkpoint(
        save_dir: Any,
        tag: Any = None,
        client_state: Mapping[str, Any] | None = None,
        save_latest: bool = True,
        exclude_frozen_parameters: bool = False,
    ) -> bool:
        client_state = {} if client_state is None else client_state
        everywhere(_NAME, lambda: _check(engine, save_dir, tag, client_state))
        folder = Path(save_dir)
        name = f"global_step{engine.global_steps}" if tag is None else str(tag)
        agree(
            lambda: {
                "the folder of a checkpoint": os.path.abspath(folder),
                "the tag of a checkpoint": name,
                "save_latest": bool(save_latest),
                "exclude_frozen_parameters": bool(exclude_frozen_parameters),
            }
        )
        if not _by_torch(engine):
            return bool(
                stock(str(folder), name, dict(client_state), save_latest, exclude_frozen_parameters)
            )
        files = _Files(engine.checkpoint_engine)

        def write() -> dict[str, Any]:
            (folder / name).mkdir(parents=True, exist_ok=True)
            with files.staged():
                engine._save_checkpoint(
                    str(folder),
                    name,
                    client_state=dict(client_state),
                    exclude_frozen_parameters=exclude_frozen_parameters,
                )
                if engine.save_zero_checkpoint:
                    engine._save_zero_checkpoint(str(folder), name)
            return _described(engine, files, exclude_frozen_parameters)

        def finish() -> None:
            if engine.global_rank == 0:
                index = _index(engine, part, everyone)
                write_whole(folder / name / INDEX, index)
                for stale in {*saved_files(folder / name)} - {*files_of(everyone)}:
                    (folder / name / stale).unlink()
                if save_latest:
                    write_whole(folder / "latest", name)

        try:
            everyone = everywhere(_NAME, write)
            everywhere(_NAME, lambda: _begin(engine, folder / name))
            everywhere(_NAME, files.put)
            everywhere(_NAME, finish)
        finally:
            files.discard(folder / name)
        return True

    return save_checkpoint


def files_of(everyone: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the fingerprints of the files of all ranks, by their names."""
    return {name: saved for theirs in everyone for name, saved in theirs["files"].items()}


def _check(engine: Any, save_dir: Any, tag: Any, client_state: Any) -> None:
    if not save_dir:
        raise ValueError(f"save_dir must be the path of a folder, not {save_dir!r}")
    os.fspath(save_dir)
    if tag is not None and (not str(tag) or str(tag) != str(tag).strip() or "\n" in str(tag)):
        raise ValueError(f"the tag {tag!r} is empty, or begins or ends in space; give another one")
    if not isinstance(client_state, Mapping):
        raise ValueError(f"client_state is a {type(client_state).__name__}; give a dict")
    if engine.zero_elastic_checkpoint() and "step" not in engine.optimizer.param_groups[0]:
        raise ValueError(
            "DeepSpeed saves no step count of this optimizer under zero_optimization."
            "elastic_checkpoint, and could not load the checkpoint; set it to false"
        )
    if taken := sorted(key for key in client_state if key in _TAKEN):
        raise ValueError(
            f"client_state has {', '.join(map(repr, taken))}, and would replace DeepSpeed's "
            f"own entry of that key; use another key"
        )


_TAKEN = frozenset(
    "module buffer_names optimizer param_shapes frozen_param_shapes shared_params "
    "frozen_param_fragments lr_scheduler data_sampler random_ltd skipped_steps global_steps "
    "global_samples dp_world_size mp_world_size checkpoint_parallel_dimensions ds_config "
    "ds_version universal_checkpoint_info".split()
)
"""Keys of ``DeepSpeedEngine._common_checkpoint_state``."""


def _by_torch(engine: Any) -> bool:
    """Tell whether the checkpoint is nothing but files that are written one by one and at once."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    one_by_one = isinstance(engine.checkpoint_engine, TorchCheckpointEngine)
    return one_by_one and not engine.has_moe_layers and not engine.zero_nvme_offload_optimizer()


def _described(engine: Any, files: _Files, exclude_frozen: bool) -> dict[str, Any]:
    own = own_of(engine)
    for stage, paths in own.pop("frozen").items():
        for path in paths if exclude_frozen else ():
            del own["stages"][stage][path]
    coordinate = engine.module.topology().get_coord(engine.global_rank)
    return {
        "rank": str(engine.checkpoint_mp_rank),
        "first": getattr(coordinate, "data", 0) == 0,
        "own": own,
        "files": files.saved(),
    }


def _index(engine: Any, part: Partition, everyone: list[dict[str, Any]]) -> str:
    index = {
        "format": 1,
        **common_of(engine, part),
        "counters": {name: getattr(engine, name) for name in COUNTERS},
        "checksums": torch.serialization.get_crc32_options(),
        "files": files_of(everyone),
        "ranks": {theirs["rank"]: theirs["own"] for theirs in everyone if theirs["first"]},
    }
    return json.dumps(index)


def _begin(engine: Any, folder: Path) -> None:
    if engine.global_rank == 0:
        write_whole(folder / INDEX, '{"format": 1}')


class _Files:
    """The files that this rank writes, first beside their places."""

    def __init__(self, checkpoint_engine: Any) -> None:
        self._engine = checkpoint_engine
        self._paths: list[Path] = []

    @contextlib.contextmanager
    def staged(self) -> Iterator[None]:
        """Let DeepSpeed's engine of checkpoints write beside the places that it is told."""
        save = self._engine.save

        def beside(state_dict: Any, path: str) -> None:
            self._paths.append(Path(path))
            try:
                save(state_dict, str(_beside(Path(path))))
            except Exception as error:
                raise RuntimeError(f"{path} cannot be written: {summary(error)}") from error

        self._engine.save = beside
        try:
            yield
        finally:
            self._engine.save = save

    def saved(self) -> dict[str, list[int]]:
        """Return the fingerprint of each file, by the name that it will have."""
        return {path.name: fingerprint(_beside(path)) for path in self._paths}

    def put(self) -> None:
        """Put the files in their places."""
        for path in self._paths:
            os.replace(_beside(path), path)

    def discard(self, folder: Path) -> None:
        """Remove files that are not in their place, and the folder if nothing else is in it."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                _beside(path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.saving")
