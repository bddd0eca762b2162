"""Fixtures of several files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from bert_serving.client import BertClient
from dispatcher_harness import DispatcherHarness
from fake_server import FakeServer, run_fake_server

if TYPE_CHECKING:
    from torch_engines import Make


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


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache of prepared models for the engine torch."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def make(cache_dir: str) -> Make:
    """Makes engines of PyTorch with this cache."""
    from torch_engines import engine_maker  # needs PyTorch, which other tests do without

    return engine_maker(cache_dir)


@pytest.fixture
def harness() -> Iterator[DispatcherHarness]:
    harness = DispatcherHarness()
    yield harness
    harness.context.destroy(linger=0)
