"""Any value from rank to rank: ``Channel`` between two of them, ``broadcast`` to all of a group.

Structures, sizes and numbers go from host to host, tensors that are large or lie on a device go
through torch.distributed. It knows no engine.
"""

from .broadcasting import broadcast
from .channel import Channel
from .sending import Handle

__all__ = ["Channel", "Handle", "broadcast"]
