"""A thread of each rank that learns from the store why this rank waits in vain, and ends the wait.

Ranks write into the store, and never wait for it: each where it is in its calls, and the first of
them that fails its error. The thread looks there about twice a second, through a connection of its
own, since another that waits for a key is held until the key comes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from datetime import timedelta
from multiprocessing.util import Finalize
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from ..logger import get_logger
from ..roads import timeout_of
from .calls import Calls, Progress
from .connections import shut, sockets_to
from .error_text import summary, trace
from .judge import Judge, differing
from .process import has_ended, identity, uncaught

__all__ = ["Watcher", "watcher"]

logger = get_logger("engine")

_POLL, _POLL_SOON = 0.5, 0.05
_WATCHED = 8
"""Other ranks that each rank looks at: those after it, so that each is looked at by as many."""

_STORE_TIMEOUT = timedelta(seconds=30)
_TELL = 3.0
"""Seconds for which rank 0, whose process holds the store, lets the others read an error."""


class Watcher:
    """This rank's calls and those known of the others, for one default process group.

    ``reason`` is the first error of all ranks once it is known here, and ``known`` is set then.
    From there on this rank's communication is shut again and again while it is inside a call.
    """

    def __init__(self) -> None:
        store: Any = distributed_c10d._get_default_store()
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        # A store may outlive a process group; the next one of the same ranks gets names of its own.
        self._prefix = f"pipecodec/{store.add(f'pipecodec/groups/{self.rank}', 1)}"
        self._port = getattr(store._underlying_non_prefix_store, "port", None)
        before = sockets_to(self._port)
        own = store.clone()
        own.set_timeout(_STORE_TIMEOUT)
        self._connection = sockets_to(self._port) - before
        self._store = distributed_c10d.PrefixStore(self._prefix, own)
        self._store.set(f"process/{self.rank}", identity())
        self._pid = os.getpid()
        self._earlier_error = uncaught()
        self._watched = [
            (self.rank + step) % self.ranks for step in range(1, min(self.ranks - 1, _WATCHED) + 1)
        ]
        self._processes: dict[int, str] = {}
        self._there: set[str] = set()
        self._key = f"{self._prefix}/call/{self.rank}"
        self.calls = Calls(self._post)
        self.judge = Judge(timeout_of())
        self.reason: str | None = None
        self.failure = ""  # how this rank says that its communication has ended
        self.engines = 0
        self.known = threading.Event()
        self._lost = False
        self._gone_since: float | None = None
        self._last_error = ""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="pipecodec-watcher", daemon=True)
        self._thread.start()
        # Runs where atexit does, and also where processes of multiprocessing end.
        self._finalizer = Finalize(None, self.stop, exitpriority=100)

    def _post(self, text: str) -> None:
        if self.reason is not None or self._gone_since is not None:
            return  # nobody compares any more, and torch prints where a connection is gone
        with contextlib.suppress(Exception):  # the process group may be gone
            distributed_c10d._get_default_store().set(self._key, text)

    def raised(self, text: str) -> None:
        """Write down an error of this rank that all may raise, for ranks that turn out not to."""
        self._last_error = text
        with contextlib.suppress(Exception):
            self._store.set(f"raised/{self.rank}", text)

    def differing(self) -> str | None:
        """Return how the calls of all ranks differ, if they do: an error may come of that."""
        with contextlib.suppress(Exception):
            verdict = differing(self.rank, Progress.parse(self.calls.text), self._progress())
            return None if verdict is None else verdict.text
        return None

    def report(self, text: str) -> None:
        """Make ``text`` the error of all ranks, unless there is one."""
        with contextlib.suppress(Exception):
            written: bytes = self._store.compare_set("error", "", text)
            self._know(written.decode(errors="replace"))
            return
        self._know(text)

    def wait_until_all_raised(self, within: str) -> None:
        """Return once all ranks raised in this rank's last call, which raised, or one is to blame.

        Where the others wait in that call, the next one of this rank would answer it with other
        values. ``within`` is part of the names of calls that no rank completes without the others.
        """
        mine = Progress.parse(self.calls.text)
        deadline = time.monotonic() + self.judge.stall_timeout
        while self.reason is None and time.monotonic() < deadline:
            calls = [theirs.call(mine.number) for theirs in self._progress().values()]
            if all(call is not None and call.state in "!=" for call in calls):
                return
            if any(call is not None and call.state == "<" for call in calls):
                if within in mine.calls[0].name:
                    self.report(self._last_error)
                return
            self.known.wait(_POLL_SOON)

    def ask(self, patience: float) -> str | None:
        """Return the error of all ranks, waiting so many seconds for one: a connection was lost."""
        self._lost = True
        self._wake.set()
        self.known.wait(patience)
        self._lost = False
        return self.reason

    def end_communication(self) -> None:
        """Close the connections that other ranks wait on, and let all ranks read the error."""
        self._shut()
        deadline = time.monotonic() + _TELL
        with contextlib.suppress(Exception):
            while self.rank == 0 and self._store.add("told", 0) < self.ranks - self._never_told():
                if time.monotonic() >= deadline:
                    return
                time.sleep(_POLL_SOON)

    def _never_told(self) -> int:
        """Return how many ranks ended before they could read the error."""
        keys = [f"told/{rank}" for rank in self._ended()]
        return len(keys) - len(self._read(keys))

    def stop(self, *, at_exit: bool = True) -> None:
        """End the thread. An error of this rank alone goes to the others before.

        ``at_exit`` tells that the process ends: an error that ends it goes to them too.
        """
        self._stopped = True
        self._finalizer.cancel()
        if os.getpid() != self._pid:
            return
        progress = Progress.parse(self.calls.text)
        if self.reason is None:
            alone = bool(progress.calls) and progress.calls[0].state == "!"
            text = self._last_error if alone else None
            if text is None and at_exit:
                text = self._uncaught(progress)
            if text is not None:
                self.report(text)
                if at_exit:  # else there is another process group, which talks on
                    self.end_communication()
        self._wake.set()
        self._thread.join(_TELL)

    def _uncaught(self, progress: Progress) -> str | None:
        """Return the error that ends this process, if one does."""
        error = uncaught()
        if error is None or error is self._earlier_error:
            return None
        where = f"after {progress.calls[0].name}" if progress.calls else "before its first call"
        return f"rank {self.rank}, whose process ends {where}: {summary(error)}\n\n{trace(error)}"

    def _run(self) -> None:
        while not self._stopped and os.getpid() == self._pid:
            self._wake.wait(_POLL_SOON if self._lost else _POLL)
            self._wake.clear()
            if self._stopped:
                return
            try:
                self._look()
            except Exception as error:
                logger.debug("looking for errors of other ranks failed: %r", error)

    def _look(self) -> None:
        text = self.calls.text
        inside, now = self.calls.inside, time.monotonic()
        if self.reason is not None:
            if inside:
                self._shut()
            return
        if self._store_is_gone():
            self._without_store(inside, now)
            return
        if len(self._processes) < len({0, *self._watched}):
            self._ended()  # learns of them while rank 0 can be asked
        found = self._read(["error"]).get("error")
        if found:
            self._know(found)
        if self.reason is None and inside:
            self._compare(text, now)

    def _compare(self, text: str, now: float) -> None:
        mine = Progress.parse(text)
        others = self._progress()
        waited = now - self.calls.since
        for line in self.judge.late(mine, others, waited):
            logger.warning("%s", line)
        verdict = self.judge.find(
            (self.rank, mine),
            others,
            self._ended() & others.keys(),
            waited,
            now,
            lost=self._lost,
        )
        if verdict is None or text != self.calls.text:
            return
        reason = verdict.text
        if verdict.raised:
            key = f"raised/{verdict.rank}"
            reason = self._read([key]).get(key) or f"rank {verdict.rank} raised an error"
        self.report(reason)

    def _progress(self) -> dict[int, Progress]:
        keys = {f"call/{rank}": rank for rank in self._watched}
        read = self._read(list(keys))
        return {rank: Progress.parse(read.get(key) or "0") for key, rank in keys.items()}

    def _ended(self) -> set[int]:
        """Return which of the processes of rank 0 and of the watched ranks have ended."""
        missing = [rank for rank in {0, *self._watched} if rank not in self._processes]
        if missing and self._gone_since is None:
            read = self._read([f"process/{rank}" for rank in missing])
            for rank in missing:
                if read.get(f"process/{rank}"):
                    self._processes[rank] = read[f"process/{rank}"]
        return {rank for rank, process in self._processes.items() if has_ended(process)}

    def _without_store(self, inside: bool, now: float) -> None:
        """Judge without the store: the process of rank 0, which held the store, has ended."""
        if self._gone_since is None:
            self._gone_since = now
        if inside and (self._lost or now - self._gone_since > _TELL):
            how = "ended" if 0 in self._ended() else "ended, or cannot be reached"
            call = Progress.parse(self.calls.text).calls[0].name
            self._know(
                f"the process of rank 0 {how}, while rank {self.rank} was inside {call}; with it "
                f"went the store in which ranks tell each other why they fail"
            )

    def _know(self, text: str) -> None:
        with self._lock:
            first, self.reason = self.reason is None, self.reason or text
        if first:
            with contextlib.suppress(Exception):
                self._store.set(f"told/{self.rank}", "yes")
                self._store.add("told", 1)
            self.known.set()
        if self.calls.inside:
            self._shut()

    def _shut(self) -> None:
        with contextlib.suppress(Exception):
            shut(self._port, self._connection)

    def _read(self, keys: list[str]) -> dict[str, str]:
        """Return the values of those keys that exist, without waiting for the others."""
        for key in keys:
            if key not in self._there:
                value = self._store.compare_set(key, "?", "?")  # "?" or "" if there is none
                if value not in (b"?", b""):
                    self._there.add(key)
        there = [key for key in keys if key in self._there]
        values = self._store.multi_get(there) if there else []
        return {k: v.decode(errors="replace") for k, v in zip(there, values, strict=True)}

    def _store_is_gone(self) -> bool:
        """Return whether its host closed the connection: asking it then makes torch print."""
        for descriptor in self._connection:
            connection = socket.socket(fileno=os.dup(descriptor))
            with connection, contextlib.suppress(BlockingIOError):
                try:
                    return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                except ConnectionError:
                    return True
        return False


_current: tuple[weakref.ref[Any], int, Watcher] | None = None


def watcher() -> Watcher:
    """Return the watcher of this process for the default process group that there is now."""
    global _current
    group = distributed_c10d._get_default_group()
    if _current is None or _current[0]() is not group or _current[1] != os.getpid():
        if _current is not None:
            _current[2].stop(at_exit=False)
        _current = (weakref.ref(group), os.getpid(), Watcher())
    return _current[2]
