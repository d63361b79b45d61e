"""Says of a partition which values cross, their cost, and all that will fail. Knows no engine."""

from __future__ import annotations

from .examine import doctor
from .facts import Boundary, Crossing, Problem, Report, Schedule, StageReport

__all__ = ["Boundary", "Crossing", "Problem", "Report", "Schedule", "StageReport", "doctor"]
