"""A channel: any value from one rank to another, and back."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..arguments import device_of
from ..roads import Sender, timeout_of
from ..roads.messages import MessageSender
from .direction import Direction
from .groups import faults, group_of, member, sends
from .meeting import Ends, Meeting
from .memory import Memory
from .sending import Handle, OnTheirWay, Orders
from .wire import DEVICE, END_MESSAGE, HOST, INSIDE, MOST_INSIDE, Decoder, Encoder, Incoming

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SHARED_MEMORY", "Channel"]

SHARED_MEMORY = True
"""Whether messages may go through shared memory; tests take the other way too."""

_left: list[object] = []
"""Messages and tensors of closed ends, which the peer need not take: dropped, they are not sent."""


class Channel:
    """Sends any value of the codec to another rank, and receives those that it sends.

    Both ranks make it, with each other's global rank and the same group; no other rank takes part,
    and neither waits before it sends or receives. A rank that makes several with one other rank
    makes them in the order in which that one does, and each carries its own values.

    Values arrive in the order in which they were sent, with the same types, dtypes, shapes, strides
    and aliases; see :func:`pipecodec.pack`. Nothing is pickled.

    Structure, numbers and tensors on the CPU of 64 KiB or less together go through shared memory
    where both processes are on one machine, else in a message of ``group``. Other tensors go
    through ``group``, whose backend has to send them from the device on which they lie; one that
    cannot, as gloo from a GPU, gets copies on the CPU, and then the sender waits for its device. A
    frame that equals the last one is not sent again, a structure of 512 bytes or more neither.

    No gradients flow: tensors arrive as their values and require none. The engines send values
    with gradients (:mod:`pipecodec.deepspeed`, :mod:`pipecodec.pipelining`).

    All tensors of a value lie on one device when they arrive: that of its first tensor when it was
    sent, or ``device``.

    One thread may send while another one receives.

    Args:
        peer: the other process's global rank.
        group: the process group that both are in; None: the default one. Its timeout, in seconds,
            is that of all waiting.
        device: where received tensors are put. None: the type of device that they were sent
            from, and of that the current one.

    Raises:
        ValueError: ``peer`` is this rank, or either is not in ``group``. (Groups of different ranks
            on the two are an error of the first use.)
        RuntimeError: torch.distributed is not initialized.
    """

    def __init__(
        self, peer: int, group: Any = None, device: torch.device | str | int | None = None
    ) -> None:
        self._group = group_of("Channel", group)
        self.peer = member("peer", peer, self._group)
        own = dist.get_rank()
        if self.peer == own:
            raise ValueError(f"peer {own} is this rank itself: a channel has two ranks")
        self.device = None if device is None else device_of("device", device)
        self._meeting = Meeting(self.peer, self._group, timeout_of(self._group), SHARED_MEMORY)
        self._ends: Ends | None = None
        self._tensor_tag = self._meeting.tag + 2
        self._where = f"channel {self._meeting.number} of ranks {own} and {self.peer}"
        self._encoder, self._decoder = Encoder(self._where), Decoder(self._where)
        self._orders = Orders(self._group, self.peer)
        self._on_their_way, self._memory = OnTheirWay(), Memory()
        remedy = "close it, and make another channel on both ranks"
        self._sends, self._recvs = self._both = Direction("send", remedy), Direction("recv", remedy)
        self._closed = False

    def _open(self, direction: Direction) -> Ends:
        """Return the open ends; waits for the peer to make its own."""
        if direction.over or direction.cut:
            raise ConnectionError(f"{self._where}: {direction.over or direction.cut}")
        if not dist.is_initialized():
            raise self._end("torch.distributed was ended in this process", self._both)
        if self._ends is None:
            ends = self._meeting.ends()
            self._sends.begun = lambda: ends.sender.posted
            self._recvs.begun = lambda: ends.receiver.taken
            self._ends = ends
        return self._ends

    def send(self, obj: Any) -> None:
        """Send a value, and return once its tensors may be written to.

        A small value is copied and nobody waited for; large tensors wait until the peer receives
        them, as ``torch.distributed.send`` does.

        Raises:
            CodecError: the value cannot be sent; the text has its path. Nothing was sent, and the
                channel goes on.
            ConnectionError: the peer has ended or closed, or this end was closed.
            TimeoutError: the peer receives nothing, or did not make its end.
        """
        self.isend(obj).wait()

    def isend(self, obj: Any) -> Handle:
        """Send a value without waiting for the peer; ``wait`` of the handle does.

        Until that returned, do not write into the value's tensors: large ones are read where they
        lie. (Those of 64 KiB or less together are copied before this returns, and all of a value on
        a device whose backend gets copies.) A handle may be dropped: the channel keeps the tensors
        until they are sent, of 256 such values at most, and then waits for the first of them; so
        it does too where 64 MiB of messages wait for the peer. Raises as ``send`` does.
        """
        with self._sends.lock:
            ends = self._open(self._sends)
            value = self._encoder.encode(obj)
            tensors, way, order = value.tensors, INSIDE, 0
            if value.device.type != "cpu" and sends(self._group, value.device.type):
                way, order = DEVICE, self._orders.next
            elif value.device.type != "cpu":
                way, tensors = HOST, [tensor.cpu() for tensor in tensors]
            elif sum(map(len, tensors)) > MOST_INSIDE:
                way = HOST
            message = self._encoder.message(value, way, order)
            self._on_their_way.make_room()
            with self._sends:
                try:
                    ends.sender.post(*message)
                except (OSError, RuntimeError) as error:
                    raise self._fault(error, [self._sends]) from None
                self._encoder.sent(value)
                if way == INSIDE or not tensors:
                    return Handle(self._where)
                return self._start(tensors, way, ends)

    def _start(self, tensors: list[Tensor], way: int, ends: Ends) -> Handle:
        if way == HOST:
            group, tag, mark = ends.host, self._tensor_tag, ends.sender.posted
            handle = Handle(self._where, lambda: ends.sender.wait_taken(mark))
        else:
            group, tag, handle = self._group, 0, Handle(self._where)
        self._on_their_way.add(handle)
        try:
            for tensor in tensors:
                handle.send(tensor, self.peer, group, tag)
        except RuntimeError as error:
            self._end(str(faults("its tensors could not be sent", error)), [self._sends])
            raise faults(self._where, error) from None
        if way == DEVICE:
            self._orders.sent(len(tensors))
        return handle

    def recv(self) -> Any:
        """Wait for the next value, and return it. Its tensors are the caller's own.

        The memory of tensors on the CPU of 1 MiB or more is used again for later values once
        nothing refers to it; the channel keeps up to 256 MiB for that.

        Raises:
            ConnectionError: the peer has ended or closed, or this end was closed.
            TimeoutError: none came within the group's timeout. Through shared memory the next call
                waits anew, unless a part of the value had come; gloo has closed the connection.
            CodecError: this process cannot build the value, such as one of a class that it does not
                have. The next call returns the value after it.
        """
        with self._recvs.lock:
            ends = self._open(self._recvs)
            with self._recvs:
                try:
                    message = ends.receiver.take()
                except (OSError, RuntimeError) as error:
                    raise self._fault(error, self._both) from None
                incoming = self._decoder.open(message)
                tensors = [] if incoming is None else self._tensors(incoming, ends)
            if incoming is None:
                raise self._end(f"rank {self.peer} has closed it", self._both)
            device = torch.device(incoming.device) if self.device is None else self.device
            return self._decoder.build(incoming, tensors, device)

    def _tensors(self, incoming: Incoming, ends: Ends) -> list[Tensor]:
        """Return the tensors of a message: those inside it, or those that follow it."""
        if incoming.way == INSIDE:
            return incoming.inside
        group, tag, device = ends.host, self._tensor_tag, torch.device("cpu")
        if incoming.way == DEVICE:
            self._orders.receiving(incoming.order, len(incoming.sizes))
            group, tag, device = self._group, 0, torch.device(incoming.device)
            if self.device is not None and self.device.type == device.type:
                device = self.device
        if device.type == "cpu":
            tensors = [self._memory.get(size) for size in incoming.sizes]
        else:
            tensors = [torch.empty(n, dtype=torch.uint8, device=device) for n in incoming.sizes]
        try:
            for tensor in tensors:
                dist.recv(tensor, self.peer, group, tag)
        except RuntimeError as error:
            self._end(str(faults("a value's tensors did not come", error)), self._both)
            raise faults(self._where, error) from None
        return tensors

    def close(self) -> None:
        """Wait until all values have left, and end the channel.

        The peer still receives the values that were sent, and gets a ``ConnectionError`` behind
        them. Large tensors have left when the peer receives them, others before. Raises
        ``ConnectionError`` or ``TimeoutError`` where they cannot leave. Closing again does nothing.
        """
        if self._closed:
            return
        with self._sends.lock:
            try:
                if not (self._sends.over or self._sends.cut):
                    ends = self._ends or self._open(self._sends)
                    self._on_their_way.wait()
                    ends.sender.finish()
                    self._say_farewell(ends.sender)
            except RuntimeError as error:
                raise faults(self._where, error) from None
            finally:
                self._shut()

    def _say_farewell(self, sender: Sender) -> None:
        """Say that no value follows, where the peer does not notice it by itself."""
        if isinstance(sender, MessageSender):
            sender.post(END_MESSAGE)
            _left.append(sender.leave())

    def _shut(self) -> None:
        """End the channel without waiting."""
        self._closed = True
        self._end("this end was closed", self._both)
        _left.extend(self._on_their_way.leave())
        self._memory = Memory()  # without the old one's tensors
        self._meeting.give_up()

    def _end(self, reason: str, directions: Iterable[Direction]) -> ConnectionError:
        """Let nothing follow, for the first reason that there is; return the error that says so."""
        for direction in directions:
            direction.over = direction.over or reason
        return ConnectionError(f"{self._where}: {reason}")

    def _fault(self, error: Exception, directions: Iterable[Direction]) -> Exception:
        """Return an error of a road to be raised; behind a lost connection nothing follows."""
        fault = faults(self._where, error)
        if isinstance(fault, ConnectionError):
            self._end("its connection was lost, or the peer has closed it", directions)
        return fault

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; without waiting where the block ends with an error."""
        if error is None:
            self.close()
        elif not self._closed:
            self._shut()
