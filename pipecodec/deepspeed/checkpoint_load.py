"""``engine.load_checkpoint`` that fails on all ranks or on none, and before it changes anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..engine.agree import agree
from ..engine.everywhere import together
from ..engine.together import raise_on_all_ranks
from .checkpoint_compare import mismatches
from .checkpoint_find import Checkpoint, find
from .checkpoint_index import COUNTERS

if TYPE_CHECKING:
    from ..stages.partition import Partition

__all__ = ["loading"]

_NAME = "load_checkpoint"


def loading(engine: Any, part: Partition) -> Callable[..., tuple[Any, Any]]:
    """Return a function that replaces this engine's ``load_checkpoint``.

    Its arguments and results are the same. All ranks call it together. It raises ``ValueError``,
    the same on every rank, before anything is changed, if a rank does not see the folder or a file,
    if a file is damaged or of another checkpoint, or if the checkpoint is of an engine that was cut
    or configured differently. If loading fails nevertheless, every rank raises, and the engine
    holds parts of the checkpoint until one was loaded whole.
    """
    stock = engine.load_checkpoint

    def load_checkpoint(
        load_dir: Any,
        tag: Any = None,
        load_module_strict: bool = True,
        load_optimizer_states: bool = True,
        load_lr_scheduler_states: bool = True,
        load_module_only: bool = False,
        custom_load_fn: Any = None,
    ) -> tuple[Any, Any]:
        options = {
            "load_module_strict": bool(load_module_strict),
            "load_optimizer_states": bool(load_optimizer_states),
            "load_lr_scheduler_states": bool(load_lr_scheduler_states),
            "load_module_only": bool(load_module_only),
        }
        agree(lambda: options)
        found = None if engine.load_universal_checkpoint() else find(load_dir, tag)
        if found is None:
            loaded: tuple[Any, Any] = stock(load_dir, tag, custom_load_fn=custom_load_fn, **options)
            return loaded
        problems = together(_NAME, lambda: mismatches(engine, part, found, options))
        raise_on_all_ranks("; ".join(problems) or None)
        loaded = together(_NAME, lambda: load(found, options, custom_load_fn))
        engine.module._synchronize_tied_weights()
        return loaded

    def load(found: Checkpoint, options: dict[str, bool], custom_load_fn: Any) -> tuple[Any, Any]:
        folder, whole = str(found.root), not options["load_module_only"]
        again = (
            whole
            and options["load_optimizer_states"]
            and engine.using_bf16_optimizer
            and not engine.zero_optimization()
        )
        if again:  # DeepSpeed looks for it in the first replica's file, and has it in one for each
            options = {**options, "load_optimizer_states": False}
        with _without_broadcast(engine.module):
            loaded: tuple[Any, Any] = stock(
                folder, found.tag, custom_load_fn=custom_load_fn, **options
            )
        if again:
            engine._load_zero_checkpoint(folder, found.tag)
        if whole and found.index is not None:
            for name in COUNTERS:
                setattr(engine, name, found.index["counters"][name])
        return loaded

    return load_checkpoint


@contextlib.contextmanager
def _without_broadcast(module: Any) -> Iterator[None]:
    """Keep DeepSpeed from communicating while it loads: a failed rank would not take part."""
    module._synchronize_tied_weights = lambda: None
    try:
        yield
    finally:
        del module._synchronize_tied_weights
