"""Messages of bytes from one rank's host to another's: no device is waited for, nothing is pickled.

A road has one sender and one receiver, and keeps the order of its messages. Between two processes
of a machine it is shared memory, else messages of a process group on the CPU. It knows no engine.
"""

from .ends import Receiver, Sender, shut_all
from .opening import Exchange, Wanted, open_roads
from .timeout import timeout_of

__all__ = ["Exchange", "Receiver", "Sender", "Wanted", "open_roads", "shut_all", "timeout_of"]
