"""Fixtures for all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings

from servers import CACHE, Server, serving

# The same examples each time: whether the tests pass is no matter of luck. Others: HYPOTHESIS_SEARCH=1 make test
settings.register_profile("same", derandomize="HYPOTHESIS_SEARCH" not in os.environ)
settings.load_profile("same")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The tiny model, with tokens shown; tests leave it as they found it."""
    with serving("-show_tokens_to_client", "-engine", "tensorflow") as server:
        yield server


def pytest_sessionfinish() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)
