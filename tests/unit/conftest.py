"""Fixtures of several files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bert_serving.client import BertClient
from dispatcher_harness import DispatcherHarness
from fake_server import FakeServer, run_fake_server


@pytest.fixture
def fake_server(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    """Runs a fake server that replies at once, or holds requests if the test module has ``HOLD = True``."""
    with run_fake_server(hold=getattr(request.module, "HOLD", False)) as fake_server:
        yield fake_server


@pytest.fixture
def bc(fake_server: FakeServer) -> Iterator[BertClient]:
    # The time limit ends threads of failed tests before the client is closed.
    with BertClient(**fake_server.ports, timeout=60_000) as bc:
        yield bc


@pytest.fixture
def no_unexpected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of objects that other tests left to the garbage collector
        yield


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
