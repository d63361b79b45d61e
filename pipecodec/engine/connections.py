"""Wake a thread that waits in a communication whose other side will never come.

Gloo has no call for that. A thread that waits in it wakes with an error when a connection closes,
so this process shuts its own; the ranks at the other ends wake too. ``close`` on a socket would not
do it: forked workers of data loaders hold copies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from torch.distributed import distributed_c10d

from ..roads import shut_all

__all__ = ["shut", "sockets_to"]

_SELF = Path("/proc/self")
_GLOO_THREAD = "gloo_tcp_loop"
_EPOLL = "anon_inode:[eventpoll]"
_ATTEMPTS = 100
_BETWEEN = 1e-3
"""Seconds between two looks at a thread of Gloo, which is awake for each message."""
_SEEN = 0.05
"""Seconds in which Gloo's thread sees that a connection has ended."""


def shut(store_port: int | None, keep: set[int]) -> None:
    """End all communication of ``torch.distributed`` in this process, which cannot be resumed.

    Shuts Gloo's connections, and those to the store at ``store_port`` except the descriptors in
    ``keep``, and the roads between hosts; aborts the groups that can be aborted, as those of NCCL.
    """
    shut_all()
    _shut_gloo()
    for descriptor in sockets_to(store_port) - keep:
        with contextlib.suppress(OSError), _socket(descriptor) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    for group in list(distributed_c10d._world.pg_names):
        with contextlib.suppress(Exception):
            group.abort()


def _shut_gloo() -> None:
    """Shut Gloo's connections: first for reading, and once Gloo has seen that, for writing.

    Where Gloo's thread cannot write a message, it forgets whoever waits until it is sent, so that
    its reading has to fail first. The sockets stay open here: closed with unread bytes in it, one
    would fail the other rank's writing in the same way.
    """
    ended = []
    for descriptor in _gloo_sockets():
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            connection = stack.enter_context(_socket(descriptor))
            connection.getpeername()  # Gloo listens too, and ends the process if that fails
            connection.shutdown(socket.SHUT_RD)
            stack.pop_all()
            ended.append(connection)
    if ended:
        time.sleep(_SEEN)
    for connection in ended:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        connection.detach()


def sockets_to(port: int | None) -> set[int]:
    """Return the descriptors of this process's connections to a TCP port."""
    found = set()
    for descriptor in _descriptors() if port else ():
        with contextlib.suppress(OSError), _socket(descriptor) as connection:
            peer = connection.getpeername()
            if connection.family in (socket.AF_INET, socket.AF_INET6) and peer[1] == port:
                found.add(descriptor)
    return found


def _gloo_sockets() -> set[int]:
    """Return the sockets that Gloo's threads poll: each in ``epoll_wait`` on its own descriptor."""
    found: set[int] = set()
    for task in (_SELF / "task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().strip() == _GLOO_THREAD:
                found.update(_polled(task))
    return found


def _polled(task: Path) -> list[int]:
    """Return the descriptors that a thread polls; none if it is never seen to wait for them."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(OSError, IndexError):  # running, or in another system call
            awaited = str(int((task / "syscall").read_text().split()[1], 16))
            if os.readlink(_SELF / "fd" / awaited) == _EPOLL:
                lines = (_SELF / "fdinfo" / awaited).read_text().splitlines()
                return [int(line.split()[1]) for line in lines if line.startswith("tfd:")]
        time.sleep(_BETWEEN)
    return []


def _descriptors() -> list[int]:
    return [int(name) for name in os.listdir(_SELF / "fd")]


def _socket(descriptor: int) -> socket.socket:
    """Return the socket behind a descriptor; ``OSError`` if there is none."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
