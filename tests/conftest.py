"""What has to be there before any test runs."""

from __future__ import annotations

import pytest

from .simdev import load


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let torch know the simulated device before the first backward pass.

    Autograd starts its threads, one for each device that there is, with that.
    """
    if any(item.get_closest_marker("simdev") for item in session.items):
        load()
