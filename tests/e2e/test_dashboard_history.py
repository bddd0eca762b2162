"""Computations of the dashboard's modules in Chromium: rates, latencies, batches, and the bounded history."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bert_serving.server import http
from browser import Browser, needs_chromium

pytestmark = needs_chromium
STATIC = Path(http.__file__).parent / "static" / "dashboard"


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """The address of the page's files; the modules need no server of vectors."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(STATIC)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser: Browser, files: str) -> Browser:
    """A page beside the modules, which runs none of them."""
    browser.open(f"{files}/icon.svg")
    return browser


def status(started: str = "then", **statistic: int) -> dict[str, object]:
    return {"server_version": "1.10.0", "server_start_time": started, "statistic": statistic}


def points(page: Browser, *samples: tuple[float, dict[str, object], str]) -> list[dict[str, float | None]]:
    """Returns the points that the page computes from samples ``(time, status, metrics)``."""
    code = (
        "let before = null;"
        "return a[0].map(([t, status, text]) => {"
        "  const now = m.sample(t, status, text), made = m.point(before, now); before = now; return made })"
    )
    return page.js_module("js/history.js", code, [list(moment) for moment in samples])  # type: ignore[no-any-return]


def test_rates(page: Browser) -> None:
    first, second, third = points(
        page,
        (10, status(num_data_request=5, num_total_seq=100, num_truncated=1), ""),
        (15, status(num_data_request=15, num_total_seq=300, num_truncated=51), ""),
        (20, status("later", num_data_request=20, num_total_seq=7), ""),
    )
    assert first["requests"] is None
    assert (second["requests"], second["texts"], second["cut"]) == (2, 40, 0.25)
    assert second["unknown"] is None, "no tokens, no share"
    assert third["texts"] is None, "counters of another run of the server are not comparable"


def test_http_latency_is_computed_from_its_histogram(page: Browser) -> None:

    def exposition(*counts: int) -> str:
        bounds = ("0.1", "0.2", "+Inf")
        name = "bert_serving_http_request_duration_seconds_bucket"
        lines = [
            f'{name}{{le="{b}",path="{p}"}} {c}.0'
            for p in ("/encode", "/docs")
            for b, c in zip(bounds, counts, strict=True)
        ]
        return "# HELP x\n" + "\n".join(lines)

    _, second = points(page, (1, status(), exposition(5, 5, 5)), (2, status(), exposition(15, 25, 25)))
    assert second["httpP50"] == pytest.approx(0.1)
    assert second["httpP95"] == pytest.approx(0.19)


def test_request_durations_are_computed_from_the_status(page: Browser) -> None:

    def times(total: list[int], waited: float) -> dict[str, object]:
        stage = {"bounds": [0.1, 0.2], "counts": total}
        return {"total": stage | {"sum": 1.0}, "queue": stage | {"sum": waited}, "compute": stage | {"sum": 7.0}}

    first, second, third = points(
        page,
        (1, status() | {"times": times([5, 0, 0], 1.0)}, ""),
        (2, status() | {"times": times([5, 20, 0], 3.0)}, ""),
        (3, status() | {"times": times([5, 20, 0], 3.0)}, ""),
    )
    assert [first[name] for name in ("p50", "p95", "queued", "computing")] == [None] * 4
    assert second["p50"] == pytest.approx(0.15)
    assert second["p95"] == pytest.approx(0.195)
    assert (second["queued"], second["computing"]) == (pytest.approx(0.1), 0)
    assert [third[name] for name in ("p50", "p95", "queued", "computing")] == [None] * 4, "no request completed"


def test_batch_sizes_are_computed_from_the_status(page: Browser) -> None:

    def batches(counts: list[int], texts: int, tokens: int, padding: int) -> dict[str, object]:
        sizes = {"bounds": [1, 8], "counts": counts, "sum": texts}
        return status() | {"batches": {"sequences": sizes, "tokens": tokens, "padding": padding}}

    first, second, third, fourth = points(
        page,
        (1, batches([5, 0, 0], 5, 100, 0), ""),
        (2, batches([5, 2, 2], 55, 190, 10), ""),
        (3, batches([5, 2, 2], 55, 190, 10), ""),
        (4, status(), ""),
    )
    assert (first["size"], first["padding"]) == (None, None)
    assert (second["size"], second["padding"]) == (12.5, 0.1)
    assert (third["size"], third["padding"]) == (None, None), "no batch completed"
    assert (fourth["size"], fourth["padding"]) == (None, None), "a status without batches"


def test_history_is_bounded(page: Browser) -> None:
    code = (
        "const h = new m.History(); for (let t = 0; t < 1000; t++) h.push({t, texts: t / 7}); h.gap(1000); h.gap(1001);"
        "const text = JSON.stringify(h), back = m.History.from(JSON.parse(text), 0);"
        "return [m.LIMIT, h.length, h.t.at(-1), back.length, text.length,"
        "m.History.from(JSON.parse(text), 2000).length, m.History.from({t: [1]}, 0).length]"
    )
    limit, length, last, back, size, old, broken = page.js_module("js/history.js", code)
    assert (limit, length, last, back, old, broken) == (720, 720, 1000, 720, 0, 0)
    assert size < 100_000
