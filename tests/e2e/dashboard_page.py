"""Opens the dashboard of a test server, and reads what the page shows."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator

from browser import Browser
from http_calls import HttpServer

#: Text from a server that would run as a script if it became markup.
HOSTILE = "<img src=x onerror=document.title='taken'>"


def open_dashboard(browser: Browser, server: HttpServer, query: str = "", seconds: int = 2) -> None:
    """Opens the page with the shortest polling interval."""
    browser.open(f"{server.url}/dashboard/icon.svg")
    browser.js("localStorage.setItem('bert-serving:settings', arguments[0])", json.dumps({"interval": str(seconds)}))
    browser.open(f"{server.url}/dashboard{query}")


def tile(browser: Browser, name: str) -> str:
    return browser.text(f"#tile-{name} dd")


def rows_of(browser: Browser, table: str) -> dict[str, str]:
    """Returns the texts of the rows of a table by their first word."""
    rows = [" ".join(row.text.split()) for row in browser.all(f"#{table} tbody tr")]
    return {row.split()[0]: row for row in rows}


def saved_history(browser: Browser, url: str) -> dict[str, list[float | None]]:
    """Returns the saved history of a server, one list per field."""
    browser.js("window.dispatchEvent(new Event('pagehide'))")
    saved = browser.js("return sessionStorage.getItem('bert-serving:history:' + arguments[0])", url)
    return json.loads(saved)  # type: ignore[no-any-return]


def num_polls(browser: Browser) -> int:
    """Returns the number of status requests."""
    return len(request_times(browser))


def request_times(browser: Browser) -> list[float]:
    """Returns the times (ms since the page was loaded) of the status requests."""
    code = (
        "return performance.getEntriesByType('resource').filter(e => e.name.includes('status')).map(e => e.startTime)"
    )
    return browser.js(code)  # type: ignore[no-any-return]


@contextlib.contextmanager
def traffic(server: HttpServer) -> Iterator[None]:
    """Sends requests of several sizes until the block ends."""
    done = threading.Event()

    def run() -> None:
        with server.zmq_client() as client:
            for number in itertools.count():
                if done.is_set():
                    return
                client.encode(["hello world", "hello " * 30] * (1 + number % 7))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
