"""Takes the screenshots of the docs, in Chromium: the dashboard and the API page of servers under load, the start log.

    make screenshots
    make screenshots ARGS=start-log

It takes about four minutes, because the charts show at least the last two minutes of load. The start log needs the
default ports.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import start_log
from PIL import Image

from browser import Browser, browsing
from http_calls import HttpServer, serving_http

OUT = Path(__file__).resolve().parents[2] / "docs" / "images"
#: Duration (s) of the load before the first screenshot.
LOAD_SECONDS = 150
#: Maximum size (bytes) of a screenshot.
MAX_SIZE = 250_000
SENTENCES = [
    "First do it, then do it right, then do it better.",
    "The museum opens its doors at nine, but the queue begins to form an hour before.",
    "A dog runs through the snow.",
    "Shares fell",
    "Scientists have found water under the surface of the planet, and hope to send a probe within ten years to see "
    "whether anything lives there; others doubt that the money will be found.",
    "Which poet wrote the letter 漢字?",
]


def load(server: HttpServer, over_http: bool, pause: float, done: threading.Event, seed: int) -> None:
    """Sends requests of random sizes from one client, with a rate that varies within each minute."""
    rng = random.Random(seed)
    with server.zmq_client() as client:
        while not done.is_set():
            texts = rng.choices(SENTENCES, k=rng.choice((1, 1, 1, 2, 4, 8, 32)))
            texts = [text if rng.random() < 0.4 else f"{text} {rng.randrange(10_000)}" for text in texts]  # 40 % repeat
            if over_http:
                server.call("/encode", {"texts": texts if rng.random() > 0.02 else [""]})
            else:
                client.encode(texts)
            rate = 1 + 0.9 * (time.monotonic() % 60 < 25)
            done.wait(rng.expovariate(rate / pause))


def keep(picture: Path, method: Image.Quantize = Image.Quantize.MEDIANCUT) -> None:
    """Saves a screenshot to the docs, reduced to 256 colours by ``method`` if it exceeds `MAX_SIZE`."""
    path = OUT / picture.name
    with Image.open(picture) as image:
        full = image.convert("RGB")
    full.save(path, optimize=True)
    if path.stat().st_size >= MAX_SIZE:
        full.quantize(256, method, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MAX_SIZE, f"{path} has {path.stat().st_size} bytes"
    print(path, path.stat().st_size)


def dashboards(browser: Browser, folder: Path, server: HttpServer, other: HttpServer) -> None:
    browser.open(f"{server.url}/dashboard/icon.svg")
    settings = json.dumps({"interval": "2", "span": "300"})
    browser.js("localStorage.setItem('bert-serving:settings', arguments[0])", settings)
    browser.open(f"{server.url}/dashboard/?server={other.url}")
    browser.wait(lambda: len(browser.all(".badge[data-state=ready]")) == 2, "both servers")
    time.sleep(LOAD_SECONDS)
    for name, scheme, phone in (
        ("dashboard", "light", False),
        ("dashboard-dark", "dark", False),
        ("dashboard-phone", "light", True),
    ):
        browser.emulate(scheme=scheme, **({"width": 390, "height": 844, "mobile": True} if phone else {}))
        time.sleep(3)  # the page polls again, and the charts adapt to the new width
        assert browser.cut_off() == [], name
        keep(browser.shot(name, folder))


def api(browser: Browser, folder: Path, server: HttpServer) -> None:
    browser.emulate(width=1100)
    browser.open(f"{server.url}/docs")
    browser.js("document.querySelector('details').open = true")
    browser.find("form[data-path='/encode'] button").click()
    browser.wait_text("form[data-path='/encode'] pre", "200 ")
    assert browser.cut_off() == []
    keep(browser.shot("api", folder))


def of_the_start() -> None:
    with tempfile.TemporaryDirectory() as folder, browsing(Path(folder) / "profile") as browser:
        for picture in start_log.take(browser, Path(folder)):
            keep(picture, Image.Quantize.MAXCOVERAGE)  # keeps the colours of single words


def of_servers() -> None:
    done = threading.Event()
    with (
        serving_http("-num_worker", "2", "-max_seq_len", "40", "-cache_mb", "8", model_dir=None) as server,
        serving_http(model_dir=None) as other,
        tempfile.TemporaryDirectory() as folder,
        browsing(Path(folder) / "profile") as browser,
    ):
        senders = [(server, index == 0, 0.6) for index in range(5)] + [(other, False, 2.0)]
        threads = [threading.Thread(target=load, args=(*sender, done, seed)) for seed, sender in enumerate(senders)]
        for thread in threads:
            thread.start()
        try:
            dashboards(browser, Path(folder), server, other)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        api(browser, Path(folder), server)


if __name__ == "__main__":
    of_the_start()
    if sys.argv[1:] != ["start-log"]:
        of_servers()
