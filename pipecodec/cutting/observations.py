"""Observes all kinds of batch that a partition is for, and merges those that go one way."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from torch import nn

from ..errors import PartitionError
from ..tape.arguments import Const, Value
from ..tape.batch import Batch
from ..tape.compare import Difference, merge
from ..tape.observe import form_of, observe, size_of
from ..tape.structure import take
from ..tape.tape import Tape, step_of
from .examples import Place, Sizes, other_padding, other_sizes, sizes_of
from .untouched import untouched

__all__ = ["Observation", "Observations"]

_MOST_METHODS = 12


@dataclass(frozen=True)
class Observation:
    """A way through the model, and a batch that takes it, of another size where there is one."""

    tape: Tape
    batch: Batch
    training: bool


@dataclass
class Observations:
    """Collects the ways through a model's glue code.

    ``methods`` are methods of glue modules that ask for sizes or data; they turned out to call no
    layer and are leaves as a whole.
    """

    model: nn.Module
    layers: Sequence[str]
    methods: list[str] = field(default_factory=list)
    numbers: set[str] = field(default_factory=set)
    """Places at which numbers of tensors, that differ with the size, go on the tape."""
    found: list[Observation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _draws: Iterator[int] = field(default_factory=count)
    limits: dict[Place, str] = field(default_factory=dict)
    """The sizes at which the model goes another way, and where."""
    _impossible: set[Sizes] = field(default_factory=set)

    @property
    def learned(self) -> int:
        """The number of things by which observing differs from the first time."""
        return len(self.methods) + len(self.numbers)

    def add_kinds(self, batch: Batch) -> None:
        """Observe a batch as it is and with other padding, in the model's mode and in the other."""
        mode = self.model.training
        for training in (mode, not mode):
            for kind in (batch, other_padding(batch)):
                if kind is not None:
                    self._try(kind, training, needed=kind is batch and training is mode)

    def _try(self, batch: Batch, training: bool, *, needed: bool) -> None:
        try:
            self.add(batch, training)
        except PartitionError as error:
            if needed:
                raise
            mode = "training" if training else "evaluation"
            self.notes.append(f"such a batch in {mode}, or with other padding, is refused: {error}")
        except Exception as error:
            if needed:
                raise
            mode = "training" if training else "evaluation"
            self.notes.append(
                f"no batch like the first in {mode} and with other padding could be observed: "
                f"{type(error).__name__}: {str(error)[:200]}"
            )

    def add(self, batch: Batch, training: bool) -> None:
        """Observe a batch, compare it with one of another size, and merge it with a known way."""
        tape, shown = self._observe_sizes(batch, training)
        for known in self.found:
            if merge(known.tape, tape) is None:
                return
        self.found.append(Observation(tape, shown, training))

    def _observe_sizes(self, batch: Batch, training: bool) -> tuple[Tape, Batch]:
        """Observe a batch, and batches of other sizes; a size that cannot be compared is fixed."""
        tape = self._observe(batch, training)
        if tape.notes:
            self._refuse_memory(batch, training)
        sizes = sizes_of(batch)
        fixed = dict.fromkeys(sizes, "the model took no batch of another size")
        shown = batch
        for other in other_sizes(batch):
            changed = other.changed & set(fixed)
            if not changed or other.sizes in self._impossible:
                continue
            try:
                second = self._observe(other.batch, training)
            except Exception:  # the model takes no batch of this size
                self._impossible.add(other.sizes)
                continue
            difference = merge(tape, second)
            if difference is None:
                shown = other.batch if shown is batch else shown
                for place in changed:
                    del fixed[place]
                continue
            if self._learn(difference, tape):
                return self._observe_sizes(batch, training)
            if not difference.told:
                self._refuse_chance(batch, training)
            told = dict.fromkeys(changed, difference.text)
            fixed.update(told)
            self.limits.update(told)
        for place, reason in fixed.items():
            _fix(tape, place, sizes[place], reason)
        for place in set(self.limits) - set(fixed):
            del self.limits[place]
        return tape, shown

    def _observe(self, batch: Batch, training: bool, *, calls: int = 1) -> Tape:
        """Observe the last of several calls in a row; the model is left as it was."""
        model = self.model
        with untouched(model):
            _draw_other_numbers(next(self._draws))
            if model.training is not training:
                model.train(training)
            for _ in range(calls):
                tape = observe(
                    model, self.layers, batch, methods=self.methods, numbers=self.numbers
                )
        return tape

    def _refuse_memory(self, batch: Batch, training: bool) -> None:
        """Raise if the model goes another way in its second call, for it remembers the first."""
        tape = self._observe(batch, training)
        difference = merge(tape, self._observe(batch, training, calls=2))
        if difference is not None:
            raise PartitionError(
                f"{difference.text}, when the same batch comes again: {'; '.join(tape.notes)}. "
                f"Keep such state in a layer, or pass it as an argument"
            )

    def _learn(self, difference: Difference, tape: Tape) -> bool:
        """Whether observing in another way may end a difference: all tapes are made anew then."""
        method = self._method_of(difference, tape)
        if method is not None:
            self.methods.append(method)
        elif difference.item and difference.place not in self.numbers:
            self.numbers.add(difference.place)
        else:
            return False
        self.found.clear()
        return True

    def _method_of(self, difference: Difference, tape: Tape) -> str | None:
        """Return the outermost method at a difference that calls no layer; it can be a leaf."""
        calling = {
            method
            for step in tape.steps
            if step.is_module and str(step.target) in set(self.layers)
            for method in step.methods
        }
        if len(self.methods) >= _MOST_METHODS:
            return None
        usable = [m for m in difference.methods if m not in calling and m not in self.methods]
        return usable[0] if usable else None

    def _refuse_chance(self, batch: Batch, training: bool) -> None:
        """Raise if two observations of one batch differ without a guard that tells them apart."""
        difference = merge(self._observe(batch, training), self._observe(batch, training))
        if difference is not None and not difference.told:
            raise PartitionError(
                f"{difference.text}, for one and the same batch: Python code between the layers "
                f"depends on chance, or on state that it keeps, which no stage would have"
            )


def _draw_other_numbers(seed: int) -> None:
    """Let Python's chance fall in another way in each observation, so that it is seen."""
    random.seed(seed)
    np.random.seed(seed)


def _fix(tape: Tape, place: Place, size: int, reason: str) -> None:
    """Have the tape hold for batches of the observed size only."""
    label, dimension = place
    key = next(key for key, name in tape.names.items() if name == label)
    guard = step_of(size_of, [Value(key), Const(dimension)])
    guard.expect = (size,)
    guard.place = f"dimension {dimension} of the input {label!r} (fixed: {reason})"
    last = max(i for i, step in enumerate(tape.steps) if step.target in (form_of, take))
    tape.steps.insert(last + 1, guard)
