"""Fixtures of several files: a client of a server with HTTP, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from bert_serving.client import BertClient

if TYPE_CHECKING:
    from browser import Browser
    from http_calls import HttpServer


@pytest.fixture(scope="module")
def client(http_server: HttpServer) -> Iterator[BertClient]:
    """A client of the server of the test file."""
    with http_server.zmq_client() as client:
        yield client


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from browser import browsing  # needs selenium, which the tests on a GPU do without

    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A fresh tab, that must have nothing to complain of in the end."""
    with chromium.tab() as browser:
        yield browser
        assert browser.complaints() == []
