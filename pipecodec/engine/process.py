"""Tells whether the process of another rank on this host has ended, and why this one ends."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

__all__ = ["has_ended", "identity", "uncaught"]

_PROC = Path("/proc")


def identity() -> str:
    """Return one line that names this process among all processes of all hosts."""
    return f"{_host()} {os.getpid()} {_started(os.getpid())}"


def has_ended(process: str) -> bool:
    """Return whether the process with this ``identity`` has ended; False if it is on another host.

    A process that was stopped, or that answers to nobody, has not ended.
    """
    host, pid, started = process.rsplit(" ", 2)
    return host == _host() and _started(int(pid)) != started


def uncaught() -> BaseException | None:
    """Return the error that ends this process, where that is known at its exit.

    A process of ``multiprocessing`` ends while its error is on the way; elsewhere Python keeps an
    error that it has printed. An exit with a code counts as an error if it follows from one.
    """
    error = sys.exc_info()[1] or getattr(sys, "last_value", None)
    if isinstance(error, SystemExit):
        return error.__context__ if error.code not in (None, 0) else None
    return error


def _host() -> str:
    """Return the host and the pid namespace, since a pid means a process only within both."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} without {_PROC}: {os.getpid()}"


def _started(pid: int) -> str:
    """Return when a living process was started, in clock ticks since boot; "" if there is none."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended, and was not waited for
