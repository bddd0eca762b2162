"""Values that the dashboard shows in Chromium of the status and the metrics of servers."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from typing import Any

import pytest

from bert_serving.server import __version__
from browser import Browser, needs_chromium
from dashboard_page import HOSTILE, num_polls, open_dashboard, rows_of, saved_history, tile
from http_calls import HttpServer, serving_http
from servers import ENGINE

pytestmark = needs_chromium
#: Names and values of tiles that take two lines or exceed their tile.
OVERLONG = (
    "return [...document.querySelectorAll('#tiles > .card:not([hidden]) :is(dt, dd)')]"
    ".filter(e => e.scrollWidth > e.clientWidth || e.clientHeight > 1.9 * parseFloat(getComputedStyle(e).fontSize))"
    ".map(e => e.textContent)"
)
#: How the rows of the shift of two models begin.
DRIFT_ROWS = [f"{HOSTILE}: Shift 0.35 0.2", "last: Shift 0.9 0.2"]
#: The page shows an en dash for a missing value.
NOTHING = "\N{EN DASH}"


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http("-engine", "zeros", "-num_worker", "2", "-num_tokenizer", "1") as server:
        yield server


def test_page_shows_the_state_of_the_server(browser: Browser, http_server: HttpServer) -> None:
    open_dashboard(browser, http_server)
    browser.wait_text("#servers .badge", "ready")
    browser.wait(lambda: tile(browser, "requests")[:1].isdigit(), "a rate")
    statistic = http_server.call("/status/server").json["statistic"]
    with http_server.zmq_client() as client:
        client.encode(["hello world"] * 40 + ["hello " * 100] * 10)
    http_server.call("/encode", {"texts": ["over HTTP"]})
    http_server.call("/encode", {"texts": [""]})
    browser.wait_text("#tile-requests small", f"{statistic['num_data_request'] + 2} in all")
    browser.wait_text("#clients", "Texts per request")
    browser.wait_text("#http", "/encode")
    assert "2 of 2 running, on cpu" in browser.text("#workers-note")
    assert [row.text.split()[0] for row in browser.all("#workers tbody tr")] == ["worker-0", "worker-1"]
    name, share, *_, texts, starts = rows_of(browser, "tokenizers")["tokenizer-0"].split()
    assert (name, starts) == ("tokenizer-0", "1")
    assert 0 <= float(share.rstrip("%")) <= 100
    assert int(texts) > 0
    assert "the ventilator is busy" in browser.text("#tokenizers-note")
    cells = [cell.text for cell in browser.all("#http tbody tr:first-child > *")]
    assert (cells[0], cells[4], cells[5]) == ("/encode", "1", "0")
    assert tile(browser, "cut") != "0 %"
    assert browser.text("#tile-cut small").endswith(" % [UNK]")
    facts = browser.text("#model-facts")
    assert "zeros, fp32" in facts
    assert "REDUCE_MEAN of layer -2" in facts
    assert "25 tokens" in facts
    assert "uncased" in facts
    assert "tiny" in facts
    assert "not observed" in facts, "there is no drift reference"
    assert re.search(r"Truncated texts\s+\d+", facts)
    assert __version__ in browser.text("#server-facts")
    assert re.fullmatch(r"as of ([01]\d|2[0-3]):\d\d:\d\d", browser.text("#updated")), "24-hour format"
    assert browser.driver.title == "bert-serving"


def test_page_shows_the_library_of_the_engine(browser: Browser, http_server: HttpServer) -> None:
    package, name = {"onnx": ("onnxruntime", "ONNX Runtime"), "tensorflow": ("tensorflow", "TensorFlow")}[ENGINE]
    with serving_http() as server:
        open_dashboard(browser, server, f"/?server={http_server.url}")
        browser.wait_text("#server-facts", "Python ")
        with contextlib.suppress(metadata.PackageNotFoundError):
            name += f" {metadata.version(package)}"
        assert f"{name}, Python " in browser.text("#server-facts")
        browser.all(".pick")[1].click()
        browser.wait_text("#model-facts", "zeros")
        for other in ("ONNX", "TensorFlow", "PyTorch"):
            assert other not in browser.text("#server-facts"), "its engine has no library"


class FakeServer:
    """Fake server with a given status and given metrics, such as those of GPUs and of drift."""

    def __init__(self, status: dict[str, Any], exposition: str) -> None:
        self.status, self.exposition = status, exposition
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/status/server":
                    fake.add_batches()
                    body = json.dumps(fake.status)
                else:
                    body = fake.exposition if self.path == "/metrics" else '{"data": [{"id": "on-gpus"}]}'
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def add_batches(self) -> None:
        """Adds ten batches of 16 texts with 25 % padding."""
        batches = self.status["batches"]
        batches["sequences"]["counts"][0] += 10
        batches["sequences"]["sum"] += 160
        batches["tokens"] += 3000
        batches["padding"] += 1000


def drift_of(texts: int, shift: float) -> dict[str, float]:
    """Returns the drift of a model as the status reports it."""
    found = {"seen": 5000, "texts": texts, "cosine_distance": 0.98, "shift": shift, "length_psi": 0.04}
    return {**found, "unknown_share_difference": 0.021}


@contextlib.contextmanager
def fake_server(status: dict[str, Any], exposition: str = "") -> Iterator[FakeServer]:
    fake = FakeServer(status, exposition)
    thread = threading.Thread(target=fake.http.serve_forever)
    thread.start()
    try:
        yield fake
    finally:
        fake.http.shutdown()
        thread.join()
        fake.http.server_close()


def test_joined_machines_and_their_workers(browser: Browser, http_server: HttpServer) -> None:
    status = http_server.call("/status/server").json
    joined = {"host": "10.0.0.7", "workers": 1, "sequences": 1234, "joined_seconds": 4215.5}
    machines = [{"name": "gpu1-ab", "draining": False} | joined, {"name": "gpu2-cd", "draining": True}]
    status["joined"] = {"machines": machines, "num_joins": 5, "num_losses": 3}
    status["workers"].append({**status["workers"][0], "name": "gpu1-ab/worker-0.1", "machine": "gpu1-ab"})
    with fake_server(status) as fake:
        open_dashboard(browser, http_server, f"/?server={fake.url}")
        browser.all(".pick")[1].click()
        browser.wait_text("#workers-note", "2 of 2 running")
        assert "1 on 2 joined machines, 1 draining (5 joins, 3 losses)" in browser.text("#workers-note")
        assert "gpu1-ab/worker-0" in browser.text("#workers")
        rows = rows_of(browser, "machines")
        assert rows.keys() == {"gpu1-ab", "gpu2-cd"}, browser.find("#machines-panel").get_attribute("outerHTML")
        assert rows["gpu1-ab"].startswith("gpu1-ab joined 10.0.0.7 cpu 1 ")
        assert rows["gpu1-ab"].endswith(" 1,234 1 h 10 min")
        assert rows["gpu2-cd"].startswith("gpu2-cd draining 0 ")
        assert browser.find("#api").get_attribute("href") == f"{fake.url}/docs", "the page of the selected server"
        browser.all(".pick")[0].click()
        browser.wait(lambda: not browser.find("#machines-panel").is_displayed(), "no machines")
        assert browser.find("#api").get_attribute("href") == f"{http_server.url}/docs"


def test_the_usage_of_each_name(browser: Browser, http_server: HttpServer) -> None:
    status = http_server.call("/status/server").json
    share = {"weight": 4, "class": "query", "texts": 1234, "tokens": 56_789, "waiting_tokens": 1_500, "refused": 7}
    status["shares"] = {"search": share, HOSTILE: {**share, "class": None}}
    with fake_server(status) as fake:
        open_dashboard(browser, http_server, f"/?server={fake.url}")
        assert not browser.find("#names-panel").is_displayed(), "this server has no names"
        browser.all(".pick")[1].click()
        browser.wait(lambda: browser.find("#names-panel").is_displayed(), "the names")
        rows = rows_of(browser, "names")
        assert rows["search"].startswith("search query 4 ")
        assert rows["search"].endswith(" 1,234 56.8K 1,500 7"), rows["search"]
        assert " by size 4 " in rows["<img"]


def test_each_of_several_models(browser: Browser, http_server: HttpServer) -> None:
    status = http_server.call("/status/server").json
    model = {"task": "rerank", "vector_space": "f00", "num_ready_worker": 2, "sequences": 1234, "tokens": 56_789}
    status["by_model"] = {
        "ranker": {**model, "queue": {"sequences": 7}},
        HOSTILE: {**model, "queue": {"sequences": 0}, "drift": drift_of(texts=2000, shift=0.35)},
        "last": {**model, "queue": {"sequences": 0}, "drift": drift_of(texts=50, shift=0.9)},
    }
    with fake_server(status) as fake:
        open_dashboard(browser, http_server, f"/?server={fake.url}")
        assert not browser.find("#models-panel").is_displayed(), "this server has one model"
        browser.all(".pick")[1].click()
        browser.wait(lambda: browser.find("#models-panel").is_displayed(), "the models")
        rows = rows_of(browser, "models")
        assert rows["ranker"].startswith("ranker rerank f00 2 ")
        assert rows["ranker"].endswith(" 1,234 56.8K 7"), rows["ranker"]
        assert " rerank f00 2 " in rows["<img"]
        shifts = [" ".join(row.text.split()) for row in browser.all("#drift tbody tr") if "Shift" in row.text]
        assert [row[: len(name)] for row, name in zip(shifts, DRIFT_ROWS, strict=True)] == DRIFT_ROWS
        assert [badge.text for badge in browser.all("#drift [data-state=high]")] == ["0.35"], "few texts are noisy"
        assert "last: the last 50 texts compared" in browser.text("#drift-note")
        assert f"{HOSTILE}: shift 0.35, last: shift 0.9" in browser.text("#model-facts")


def test_gpus_batches_and_drift(browser: Browser, http_server: HttpServer) -> None:
    status = http_server.call("/status/server").json
    gib = 2**30
    busy, idle = sorted(status["workers"], key=lambda worker: worker["name"])
    busy |= {"device": "gpu: 0", "engine": "torch", "gpu_utilization": 0.87, "in_flight": 2}
    busy |= {"gpu_memory_used": 61.25 * gib, "gpu_memory_total": 140 * gib}
    idle |= {
        "device": "gpu: 1",
        "gpu_memory_used": gib // 2,
        "gpu_memory_total": 20 * gib,
    }  # an instance of a partitioned GPU has no utilization
    status["drift"] = drift_of(texts=2000, shift=0.35)
    status["unknown_token"] = "<unk>"
    engine = 'bert_serving_engine_info{dtype="bf16",engine="torch",library="torch",library_version="2.13.0"} 1.0\n'
    with fake_server(status, engine) as fake:
        browser.emulate(height=1400)
        open_dashboard(browser, http_server, f"/?server={fake.url}")
        browser.wait_text("#workers", "worker-0")
        assert "GPU" not in browser.text("#workers"), "there is none"
        assert not browser.find("#drift-panel").is_displayed(), "there is no reference"

        browser.all(".pick")[1].click()
        browser.wait_text("#workers", "GPU memory")
        cells = [
            [cell.text for cell in row.find_elements("css selector", "th, td")] for row in browser.all("#workers tr")
        ]
        assert cells[0][9:11] == ["GPU usage", "GPU memory"]
        assert [row[1] for row in cells[1:]] == ["gpu: 0", "gpu: 1"]
        assert cells[1][3] == "busy, 2 batches"
        assert [row[9:11] for row in cells[1:]] == [["87 %", "61.3 of 140 GiB"], [NOTHING, "0.5 of 20 GiB"]]
        assert "PyTorch 2.13.0" in browser.text("#server-facts")

        assert "shift 0.35" in browser.text("#model-facts")
        rows = rows_of(browser, "drift")
        assert rows["Shift"].startswith("Shift 0.35 0.2 distance")
        assert browser.text("#tile-cut small").endswith(" % <unk>")
        assert rows["Unknown"].startswith("Unknown tokens +2.1 % +5 % ")
        assert [badge.text for badge in browser.all("#drift [data-state=high]")] == ["0.35"]
        assert "the last 2,000 texts" in browser.text("#drift-note")

        def label(number: int) -> str:
            return browser.find(f"#charts figure:nth-child({number}) .plot").get_attribute("aria-label") or ""

        browser.wait(lambda: "no values" not in label(7), "texts per batch")
        assert label(7).startswith("Texts per batch, the last 15 minutes. mean: 16 lately")
        assert label(8).startswith("Padding, the last 15 minutes. share of batch tokens: 25 % lately")
        browser.wait_fitting()
        browser.shot("dashboard-gpus")

        fake.status["drift"] |= {"texts": 0, "cosine_distance": None, "shift": None, "unknown_share_difference": None}
        browser.wait_text("#drift-note", "the last 0 texts")
        assert rows_of(browser, "drift")["Shift"].startswith(f"Shift {NOTHING} 0.2 ")
        assert browser.all("#drift [data-state=high]") == []
        browser.emulate(360, 740, mobile=True)
        browser.shot("dashboard-gpus-phone")
        browser.wait_fitting()
        fake.status["workers"].remove(idle)
        browser.wait_text("#workers", "not running")


def test_tiles_are_complete_with_the_second_poll(browser: Browser, http_server: HttpServer) -> None:
    """The second poll does not wait for the interval, and tiles without a recent request show those since the start."""
    http_server.call("/encode", {"texts": ["over HTTP"]})
    open_dashboard(browser, http_server, seconds=60)
    browser.wait(lambda: tile(browser, "requests") != NOTHING, "a rate")
    browser.wait(lambda: num_polls(browser) == 2, "the record of the second poll")
    assert NOTHING not in [tile(browser, name) for name in ("texts", "http", "batch", "waiting", "clients", "cut")]
    assert browser.text("#tile-http small") == "since the start"


def test_wide_windows_are_filled_with_rows_of_equal_height(browser: Browser, http_server: HttpServer) -> None:
    boxes = (
        "return [...document.querySelectorAll(`${arguments[0]} > .card`)].map(e => e.getBoundingClientRect())"
        ".map(r => [r.top, r.height, r.right].map(Math.round))"
    )
    open_dashboard(browser, http_server)
    browser.wait_text("#workers", "worker-0")
    for width in (2200, 1280, 390):
        browser.emulate(width, mobile=width == 390)
        browser.wait_fitting()
        for part in ("#tiles", "#charts"):
            cards = browser.js(boxes, part)
            assert max(right for _, _, right in cards) > width - 40, f"{part} at {width} px"
            rows = {top: {height for other, height, _ in cards if other == top} for top, _, _ in cards}
            assert all(max(heights) - min(heights) <= 1 for heights in rows.values()), f"{part} at {width} px: {rows}"


def test_cache(browser: Browser, http_server: HttpServer) -> None:
    """The tile is there if the server has a cache, and fills the row that it adds to."""
    status = http_server.call("/status/server").json
    status["cache"] = {"max_bytes": 2**20, "bytes": 2**19, "entries": 1234, "hits": 70, "misses": 25, "coalesced": 5}
    with fake_server(status) as fake:
        open_dashboard(browser, http_server, f"/?server={fake.url}")
        browser.wait_text("#workers", "worker-0")
        assert not browser.find("#tile-cache").is_displayed(), "this server has no cache"
        browser.all(".pick")[1].click()
        browser.wait(lambda: browser.find("#tile-cache").is_displayed(), "the tile")
        assert tile(browser, "cache") == "75 %"
        assert browser.text("#tile-cache small") == "1,234 vectors, 50 % full"
        for width in (2200, 1280, 1200, 1000, 390):
            browser.emulate(width, mobile=width == 390)
            browser.wait_fitting()
            assert browser.js(OVERLONG) == [], f"texts of tiles at {width} px"
            code = "return [...document.querySelectorAll('#tiles > .card')].map(e => e.getBoundingClientRect().right)"
            rights = browser.js(code)
            assert rights[-1] == pytest.approx(max(rights), abs=1), f"the last row is full at {width} px"
            assert max(rights) > width - 40


def test_crosshair_snaps_to_samples(browser: Browser, http_server: HttpServer) -> None:
    open_dashboard(browser, http_server)
    browser.wait(lambda: len(saved_history(browser, f"{http_server.url}/")["t"]) >= 3, "some points")
    browser.find("#pause").click()
    code = (
        "const over = document.querySelector('#charts .u-over'), box = over.getBoundingClientRect();"
        "const send = (type, x) => over.dispatchEvent("
        "  new MouseEvent(type, {clientX: box.left + x, clientY: box.top + 9}));"
        "const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));"
        "const shift = line => new DOMMatrix(getComputedStyle(line).transform).e;"
        "const lines = () => [...document.querySelectorAll('.u-cursor-x')].map(shift);"
        "send('mouseenter', 0); send('mousemove', 5);"
        "return drawn().then(() => { const far = lines(); send('mousemove', box.width - 1);"
        "  return drawn().then(() => [far, lines(), box.width]) })"
    )
    far, near, width = browser.js_module("js/dom.js", code)
    assert len(set(map(round, far))) == 1, "one position in all charts"
    assert far[0] > width / 2, "the first sample is near the right end"
    assert far[0] < near[0] <= width
    assert " at " in browser.text("#charts h3")
    code = (
        "const h = new m.History(); h.push({t: 1, texts: 0}); h.gap(5); h.push({t: 9, texts: 2});"
        "return [h.nearest(0), h.nearest(4), h.nearest(5.1), h.nearest(99), new m.History().nearest(1)]"
    )
    assert browser.js_module("js/history.js", code) == [0, 0, 2, 2, None]


def test_charts_are_drawn(browser: Browser, http_server: HttpServer) -> None:
    open_dashboard(browser, http_server)
    with http_server.zmq_client() as client:
        drawn = "return [...document.querySelectorAll('#charts canvas')].map(c => c.getContext('2d')"
        drawn += ".getImageData(0, 0, c.width, c.height).data.some(v => v > 0))"

        def is_drawn() -> bool:
            client.encode(["hello world"])
            return "at most" in label() and "no values" not in label() and all(browser.js(drawn))

        def label() -> str:
            return browser.find("#charts figure:nth-child(2) .plot").get_attribute("aria-label") or ""

        browser.wait(is_drawn, "the line of texts")
    assert len(browser.all("#charts canvas")) == 9
    assert label().startswith("Texts per second, the last 15 minutes. texts: ")
