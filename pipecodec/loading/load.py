"""Loads one stage from a folder that ``save_pretrained`` wrote."""

from __future__ import annotations

import os

import torch
from torch import nn

from ..arguments import device_of, flag, instance
from ..no_memory import without_memory
from ..stages.partition import Partition
from .folder import Folder
from .initial import buffers_of
from .keys import Source, ignored_if_missing, kept_dtypes, sources
from .place import put
from .slots import Slot, Stage

__all__ = ["load_stage"]

_ALIGNMENT = 64  # bytes, of torch's allocator on the CPU


def load_stage(
    part: Partition,
    stage: int,
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    strict: bool = True,
) -> nn.Module:
    """Give one stage memory and the values that a folder holds; return the stage.

    ``part`` was cut from a model on meta or of fake tensors; ``folder`` has ``model.safetensors``
    or ``pytorch_model.bin``, whole or in shards with an index. Only this stage's tensors are read,
    one after the other, to ``device``; the stage stays the same object, with the model's names.

    - For a transformers model keys and values are converted as ``from_pretrained`` does; for any
      other module the folder's keys are those of the model's state dict.
    - A tied weight is read under any of its names. Copies that stages of one process hold on one
      device become one parameter.
    - Buffers that no state dict holds (rotary frequencies), and tensors that transformers leaves
      out of its files (sinusoidal positions), are computed by the modules' own initialisation,
      ``reset_parameters`` and ``_init_weights``.
    - Values have the dtype that they have in the model. ``dtype`` is for those of floating point
      that are read, except where a transformers model keeps float32; computed ones keep theirs.

    Raises ValueError with all reasons at once, before anything is changed: no folder or no
    weights, shards missing or left over, keys that the stage needs and the folder lacks, keys that
    the model lacks, shapes that differ, tied names with different values, quantized weights, a
    buffer that cannot be computed. With ``strict=False`` keys that the model lacks are ignored.
    Raises TypeError or ValueError for an argument that is no such object or has no such value.
    """
    own = Stage(part, stage)
    instance("folder", folder, (str, os.PathLike), "the path of a folder")
    instance("dtype", dtype, (torch.dtype, type(None)), "a torch.dtype, or None")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be one of floating point, not {dtype}")
    flag("strict", strict)
    where = device_of("device", device)
    with Folder(folder) as files:
        if files.problems:
            raise _error(stage, folder, files.problems)
        plan = _Plan(own, files, strict)
        computed, more = buffers_of(own, plan.computed, where)
        if plan.problems or more:
            raise _error(stage, folder, [*plan.problems, *more])
        values, problems = plan.read(where, dtype)
    if problems:
        raise _error(stage, folder, problems)
    put(own, values | computed, where)
    return own.module


class _Plan:
    """The tensors to read and to compute, and all that prevents it."""

    def __init__(self, own: Stage, files: Folder, strict: bool) -> None:
        self._own, self._files = own, files
        self.problems: list[str] = []
        self.computed: list[Slot] = []
        self._wanted: list[tuple[Slot, list[str]]] = []
        if "quantization_config" in files.config():
            self.problems.append(
                "its weights are quantized; save the model dequantized (model.dequantize())"
            )
            return
        self._sources, others = sources(own.model, files.files)
        if others and strict:
            self.problems.append(
                f"it has {_listed(others)}, which {type(own.model).__name__} lacks; is it another "
                f"model's, or one with other sizes? With strict=False they are ignored"
            )
        for path in sorted(own.module_keys - {slot.path for slot in own.slots}):
            self.problems.append(
                f"{path} is no tensor, and folders have only tensors; give its module none"
            )
        for slot in own.tensors():
            self._add(slot)
        self._check_files()
        self._check_shapes()

    def _add(self, slot: Slot) -> None:
        keys = self._own.keys.get(slot.path)
        persistent = slot.path in self._own.module_keys
        if keys is None and persistent:
            self.problems.append(
                f"{slot.path} is in the stage's state dict, but not in the model's, so no folder "
                f"of the model has it; make it a buffer that is not persistent"
            )
        elif keys is None:
            self.computed += [slot] if without_memory(slot.tensor) else []
        elif found := [key for key in keys if key in self._sources]:
            self._wanted.append((slot, found))
        elif not self._may_lack(keys):
            self.problems.append(f"it lacks {' and '.join(map(repr, keys))}")
        elif without_memory(slot.tensor):
            self.computed.append(slot)

    def _may_lack(self, keys: list[str]) -> bool:
        return any(map(ignored_if_missing(self._own.model), keys))

    def _used(self) -> list[Source]:
        used = [self._sources[key] for _, keys in self._wanted for key in keys]
        return list({id(source): source for source in used}.values())

    def _check_files(self) -> None:
        for source in self._used():
            reasons = filter(None, (self._files.lacks(key) for _, key in source.parts))
            self.problems += [reason for reason in reasons if reason not in self.problems]

    def _check_shapes(self) -> None:
        shapes: dict[str, torch.Size] = {}
        for source in self._used():
            if any(self._files.lacks(key) for _, key in source.parts):
                continue
            try:
                made = source.make(lambda key: torch.empty(self._files.shape(key), device="meta"))
            except Exception as error:
                self.problems.append(
                    f"{_listed([key for _, key in source.parts])} cannot be converted to "
                    f"{_listed(source.targets)}: {type(error).__name__}: {error}"
                )
            else:
                shapes.update({key: value.shape for key, value in made.items()})
                lacking = [key for key in source.targets if key not in made]
                if lacking:
                    self.problems.append(f"{source.parts[0][1]!r} gives no {_listed(lacking)}")
        for slot, keys in self._wanted:
            for key in keys:
                if key in shapes and shapes[key] != slot.tensor.shape:
                    self.problems.append(
                        f"{key!r} has shape {tuple(shapes[key])} there and "
                        f"{tuple(slot.tensor.shape)} in the model; build the model from the "
                        f"folder's config.json"
                    )

    def read(
        self, device: torch.device, dtype: torch.dtype | None
    ) -> tuple[dict[Slot, torch.Tensor], list[str]]:
        """Return the values by place, and the tied names whose values differ."""
        kept = kept_dtypes(self._own.model, dtype) if dtype is not None else None
        slots = {key: slot for slot, keys in self._wanted for key in keys}
        values: dict[Slot, torch.Tensor] = {}
        names: dict[Slot, str] = {}
        problems = []
        for source in self._used():
            made = source.make(self._files.read)
            for key in list(made):
                value, slot = made.pop(key), slots.get(key)
                if slot is None:
                    continue
                kind = slot.tensor.dtype
                if kept is not None and kind.is_floating_point:
                    kind = kept(key)
                value = _alone(value.to(device=device, dtype=kind))
                if slot in values and not torch.equal(values[slot], value):
                    problems.append(
                        f"{names[slot]!r} and {key!r} are one weight in the model, and differ "
                        f"there; build the model with tie_word_embeddings=False, or remove one"
                    )
                values.setdefault(slot, value)
                names.setdefault(slot, key)
        return values, problems


def _alone(value: torch.Tensor) -> torch.Tensor:
    """Return the value in a storage that holds nothing else and begins where torch's begin.

    Kernels may sum in another order where memory is not aligned, and round differently.
    """
    whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if whole and value.data_ptr() % _ALIGNMENT == 0 else value.clone()


def _error(stage: int, folder: str | os.PathLike[str], problems: list[str]) -> ValueError:
    return ValueError(f"stage {stage} cannot be loaded from {folder}: {'; '.join(problems)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 9} more" if len(names) > 9 else ""
    return ", ".join(map(repr, names[:9])) + more
