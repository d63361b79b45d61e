"""The names of :mod:`pipecodec.stages.liveness`, under which they were first importable."""

from __future__ import annotations

from .stages.liveness import Arg, Liveness, OptionalArg, analyze_graph, analyze_signatures, arg_name

__all__ = ["Arg", "Liveness", "OptionalArg", "analyze_graph", "analyze_signatures", "arg_name"]
