"""Records calls of leaves, into which the recorder does not look."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .ambient import ambient_now
from .foreign import Foreign
from .kept import Kept, leaf_above
from .numbers import TracedFloat, TracedInt, plain, traced
from .place import place
from .purity import hollow_arguments
from .recorder import Recorder
from .structure import numbers_in, put, take, tensors_in
from .tape import Method, Out, Step, version_of

__all__ = ["Leaves"]

_IN_A_CONTAINER = 2  # (0 or 1, position or name) is an argument itself


class Leaves:
    """Records calls of leaves.

    Inside a leaf every torch function is watched: see :class:`Foreign`.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.foreign = Foreign(recorder)
        self.kept = Kept(recorder.model, recorder.glue, recorder.values.held)

    def call(
        self, name: str, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Call a leaf and record it."""
        recorder = self.recorder
        recorder.recording = False
        try:
            step = Step(name, place=place(), ambient=ambient_now(recorder.tape.device))
            step.args = recorder.values.encode_call(args, kwargs)
            args = _without_traced(args)
            kwargs = {name: _without_traced(value) for name, value in kwargs.items()}
            return self._observe(step, module, call, args, kwargs)
        finally:
            recorder.recording = True

    def finish(self) -> None:
        """Tell the tape which calls share a thing that one of them writes into."""
        recorder, tape = self.recorder, self.recorder.tape
        tape.keepers = self.kept.finish(tape.steps)
        written = {name for step in tape.steps for name in step.writes_held}
        for leaf, name in recorder.values.held_by_leaves(recorder.glue):
            if name in written:
                tape.keepers[name] = (*tape.keepers.get(name, ()), leaf)

    def _observe(
        self, step: Step, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        recorder, name = self.recorder, str(step.target)
        before = {path: (id(t), version_of(t)) for path, t in tensors_in((args, kwargs))}
        numbers = dict(numbers_in((args, kwargs)))
        buffers = [(buffer, version_of(buffer)) for buffer in module.buffers()]
        is_method = isinstance(step.target, Method)
        leaf = None if is_method else leaf_above(name, recorder.glue)
        if leaf is not None:
            self.kept.before(step, leaf)
        prefix = name.rpartition(".")[0] if is_method else name
        handle = self._catch_outputs(step, f"{prefix}." if prefix else "", is_method)
        reads = self.foreign.reading(step, module, (args, kwargs))
        recorder.watch = reads.watch
        try:
            started = time.perf_counter()
            result = call(*args, **kwargs)
            step.seconds = time.perf_counter() - started
        finally:
            recorder.watch = None
            handle.remove()
        reads.check((result, args, kwargs))
        recorder.values.last_call.pop(name, None)
        recorder.values.last_call[name] = step
        self._note_arguments(step, before, args, kwargs)
        self._note_numbers(step, numbers, args, kwargs)
        changed = [buffer for buffer, version in buffers if version_of(buffer) != version]
        if changed:
            written = (recorder.values.held_by_memory(buffer) for buffer in changed)
            step.writes_held += (name, *(each for each in written if each is not None))
        if not is_method:
            step.pure, step.hollow = hollow_arguments(
                module, call, args, kwargs, result, step, recorder.values.keys
            )
        if leaf is not None:
            self.kept.after(step, leaf)
        recorder.add(step)
        recorder.values.outputs(step, result)
        return result

    def _catch_outputs(self, step: Step, prefix: str, is_method: bool) -> Any:
        """Note each tensor that a submodule returns: hooks may hand it to glue code."""
        recorder, counts = self.recorder, dict[str, int]()

        def hook(submodule: nn.Module, _: Any, output: Any) -> None:
            path = recorder.values.module_names.get(id(submodule))
            if path is None or not path.startswith(prefix):
                return
            nth = counts[path] = counts.get(path, -1) + 1
            if is_method:
                step.needs += (path,)
            for where, tensor in tensors_in(output):
                recorder.values.alive.append(tensor)
                recorder.values.inside[id(tensor)] = (step, (path[len(prefix) :], nth), where)

        return nn.modules.module.register_module_forward_hook(hook)

    def _note_arguments(self, step: Step, before: dict[Any, Any], args: Any, kwargs: Any) -> None:
        """Note the tensors that a leaf put into its arguments, and those it wrote into."""
        recorder = self.recorder
        for path, tensor in tensors_in((args, kwargs)):
            same_id, same_version = before.get(path, (None, None))
            if same_id != id(tensor):
                label = ".".join([str(step.target), *map(str, path[1:])])
                step.outs.append(Out("args", path, recorder.values.new(tensor, label)))
                holders = [take((args, kwargs), path[:n]) for n in range(1, len(path))]
                recorder.values.opened.update(map(id, holders))
            elif same_version != version_of(tensor):
                if id(tensor) in recorder.values.keys:
                    step.writes += (recorder.values.keys[id(tensor)],)
                    recorder.values.note_write(recorder.values.keys[id(tensor)])
                    step.writes_gradient = step.writes_gradient or tensor.requires_grad
                held = recorder.values.held_by_memory(tensor)
                if held is not None:
                    step.writes_held += (held,)

    def _note_numbers(
        self, step: Step, before: dict[Any, int | float], args: Any, kwargs: Any
    ) -> None:
        """Note the numbers that a leaf set in its arguments, such as a cache's count."""
        recorder = self.recorder
        for path, number in list(numbers_in((args, kwargs))):
            if len(path) > _IN_A_CONTAINER and before.get(path) != number:
                label = ".".join([str(step.target), *map(str, path[1:])])
                key = recorder.values.new(number, label)
                if put((args, kwargs), path, traced(number, recorder, key)):
                    step.outs.append(Out("args", path, key))
                    holders = [take((args, kwargs), path[:n]) for n in range(1, len(path))]
                    recorder.values.opened.update(map(id, holders))


def _without_traced(value: Any) -> Any:
    """Return arguments with plain numbers; containers that a leaf may change stay as they are."""
    if isinstance(value, (TracedInt, TracedFloat)):
        return plain(value)
    if type(value) is tuple:
        return tuple(map(_without_traced, value))
    if type(value) is torch.Size:
        return torch.Size([plain(n) for n in value])
    return value
