"""Fixtures of several files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dispatcher_harness import DispatcherHarness
from fake_server import FakeServer, run_fake_server


@pytest.fixture
def fake_server(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    """Runs a fake server that replies at once, or holds requests if the test module has ``HOLD = True``."""
    with run_fake_server(hold=getattr(request.module, "HOLD", False)) as fake_server:
        yield fake_server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(max_workers=16)
    yield pool
    pool.shutdown(wait=False, cancel_futures=True)  # a hanging call must not delay later tests


@pytest.fixture
def harness() -> Iterator[DispatcherHarness]:
    harness = DispatcherHarness()
    yield harness
    harness.context.destroy(linger=0)
