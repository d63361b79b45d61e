"""A simulated accelerator, torch's device "sim": ``load()`` it, and count its operations."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

__all__ = ["Device", "load"]

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
HERE = Path(__file__).resolve().parent


class Device:
    """The device; counts everything that happens after ``reset``."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension

    def reset(self) -> None:
        """Start counting anew."""
        self._extension.reset()

    def counts(self, *names: str) -> dict[str, int]:
        """Return how often each thing happened: "host to device", "device to host", "sync"...

        Each of torch's operations on the device is a "kernel"; the codec's own are "launch".
        """
        counted = self._extension.counts()
        return {name: counted.get(name, 0) for name in names} if names else counted

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Let the codec use its own kernels, as on CUDA, in place of torch's operations."""
        self._extension.set_kernels(True)
        try:
            yield
        finally:
            self._extension.set_kernels(False)

    @contextmanager
    def stream(self, number: int) -> Iterator[None]:
        """Queue on another stream than 0."""
        before = self._extension.set_stream(number)
        try:
            yield
        finally:
            self._extension.set_stream(before)

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Run queued work as late as possible."""
        self._extension.set_delayed(True)
        try:
            yield
        finally:
            self._extension.set_delayed(False)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Report that work is captured into a graph; it is done all the same.

        ``replay`` queues it again, but for torch's operations that make a tensor.
        """
        if TORCH < (2, 12):
            pytest.skip("torch before 2.12 asks no simulated device whether it captures")
        self._extension.set_capturing(True)
        try:
            yield
        finally:
            self._extension.set_capturing(False)

    def replay(self) -> None:
        """Queue the work captured last again, on the current stream."""
        self._extension.replay()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make waits for an event last until ``let_go``; they raise after 20 s."""
        self._extension.hold()
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        """End ``held``."""
        self._extension.let_go()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Make waits for an event fail, as they do once a kernel has failed."""
        self._extension.fail()
        try:
            yield
        finally:
            self.let_go()

    def peek(self, tensor: torch.Tensor) -> int:
        """Read a byte of a tensor on the host, which ends the process."""
        value: int = self._extension.peek(tensor.data_ptr())
        return value


@functools.cache
def load() -> Device:
    """Build the device, which takes most of a minute the first time, and make torch know it."""
    root = HERE.parents[1]
    build = root / "build" / "simdev"
    build.mkdir(parents=True, exist_ok=True)
    extension = cpp_extension.load(
        name="pipecodec_simdev",
        sources=[
            str(HERE / "simdev.cpp"),
            str(HERE / "kernels.cpp"),
            str(root / "csrc" / "tests" / "cuda_on_host" / "machine.cpp"),
        ],
        extra_include_paths=[str(root), str(root / "csrc" / "tests" / "cuda_on_host")],
        extra_cflags=["-std=c++20", "-O1", "-g0", "-Wall"],
        build_directory=str(build),
    )
    torch.utils.rename_privateuse1_backend("sim")
    module = types.ModuleType("torch.sim")
    module.is_available = lambda: True  # type: ignore[attr-defined]
    module.device_count = lambda: 1  # type: ignore[attr-defined]
    module.current_device = lambda: 0  # type: ignore[attr-defined]
    module._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
    module.manual_seed_all = lambda seed: None  # type: ignore[attr-defined]
    torch._register_device_module("sim", module)
    torch.utils.generate_methods_for_privateuse1_backend()
    return Device(extension)
