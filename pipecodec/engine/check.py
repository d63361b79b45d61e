"""No rank steps on a frame that differs from the one it was assumed to repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from ..errors import CodecError, StructureChangedError
from .stage_module import StageModule

__all__ = ["frame_check"]


def frame_check(
    device: torch.device, stages: Sequence[StageModule], tell_others: bool
) -> Callable[[], None]:
    """Return a check that raises if an unread frame of this rank's ``stages`` differs.

    The host waits for the outcome once. With ``tell_others`` it is a collective call over
    ``device`` that raises on every rank if it does on one; without it the others have to be told in
    another way.
    """
    codecs = [stage.incoming for stage in stages if stage.incoming is not None]

    def check() -> None:
        error: CodecError | None = None
        try:
            for codec in codecs:
                codec.check()
        except CodecError as caught:
            error = caught
        if tell_others:
            wrong = torch.tensor(float(error is not None), device=device)
            dist.all_reduce(wrong)
            if error is None and wrong > 0:
                error = StructureChangedError(
                    "on another rank a frame differs from the frame it was assumed to repeat; the "
                    "error of that rank says which"
                )
        if error is not None:
            raise error

    return check
