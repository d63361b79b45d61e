"""Loggers whose messages can be limited to some ranks of a distributed run."""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from torch import distributed as dist

__all__ = ["DEBUG", "INFO", "RankLogger", "get_logger"]

DEBUG = logging.DEBUG
INFO = logging.INFO

_PACKAGE = "pipecodec"

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


def _current_rank() -> int:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0"))


class _RankFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        ranks = getattr(record, "ranks", None)
        if ranks is None:
            return True
        return _current_rank() in ([ranks] if isinstance(ranks, int) else ranks)


class _FallbackHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr unless the application has set up logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)


class RankLogger(_Adapter):
    """A logger whose methods take ``ranks=``: one rank, a list of ranks, or None for all.

    The rank is torch.distributed's if it is initialised, else the environment's ``RANK``, else 0.
    """

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Move ``ranks`` from the call's keywords to the record."""
        extra = dict(kwargs.get("extra") or {})
        extra["ranks"] = kwargs.pop("ranks", None)
        kwargs["extra"] = extra
        return msg, kwargs


def get_logger(name: str, level: int = INFO) -> RankLogger:
    """Return the logger ``pipecodec.<name>`` at `level`.

    The root logger is never touched. While the application has configured none, messages go to
    stderr through one handler on the logger ``pipecodec``.
    """
    package = logging.getLogger(_PACKAGE)
    if not any(isinstance(handler, _FallbackHandler) for handler in package.handlers):
        handler = _FallbackHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s [%(name)s] %(message)s"))
        package.addHandler(handler)
    logger = logging.getLogger(f"{_PACKAGE}.{name}")
    logger.setLevel(level)
    if not any(isinstance(existing, _RankFilter) for existing in logger.filters):
        logger.addFilter(_RankFilter())
    return RankLogger(logger, {})
