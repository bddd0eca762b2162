"""Makes the pictures of the docs: the dashboard and the API page, of real servers under load, in a real Chromium.

    make screenshots

It takes about four minutes: the charts show the last two at least, and the servers have to have something to tell.
"""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from browser import Browser, browsing
from http_calls import HttpServer, serving_http

OUT = Path(__file__).resolve().parents[2] / "docs" / "images"
#: Seconds of load before the first picture.
LOADED = 150
#: A picture in the docs is no larger than this, in bytes.
MOST = 250_000
SENTENCES = [
    "First do it, then do it right, then do it better.",
    "The museum opens its doors at nine, but the queue begins to form an hour before.",
    "A dog runs through the snow.",
    "Shares fell",
    "Scientists have found water under the surface of the planet, and hope to send a probe within ten years to see "
    "whether anything lives there; others doubt that the money will be found.",
    "Who wrote the letter 漢字?",
]


def load(server: HttpServer, over_http: bool, pause: float, done: threading.Event, seed: int) -> None:
    """One client, that sends requests of changing size: less and more within a minute, as users do."""
    luck = random.Random(seed)
    with server.zmq_client() as client:
        while not done.is_set():
            texts = luck.choices(SENTENCES, k=luck.choice((1, 1, 1, 2, 4, 8, 32)))
            if over_http:
                server.call("/encode", {"texts": texts if luck.random() > 0.02 else [""]})
            else:
                client.encode(texts)
            hurry = 1 + 0.9 * (time.monotonic() % 60 < 25)
            done.wait(luck.expovariate(hurry / pause))


def keep(picture: Path) -> None:
    """Into the docs; with 256 colours if it is too large otherwise."""
    path = OUT / picture.name
    with Image.open(picture) as image:
        whole = image.convert("RGB")
    whole.save(path, optimize=True)
    if path.stat().st_size >= MOST:
        whole.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MOST, f"{path} has {path.stat().st_size} bytes"
    print(path, path.stat().st_size)


def dashboards(browser: Browser, folder: Path, server: HttpServer, other: HttpServer) -> None:
    browser.open(f"{server.url}/dashboard/icon.svg")
    settings = json.dumps({"interval": "2", "span": "300"})
    browser.js("localStorage.setItem('bert-serving:settings', arguments[0])", settings)
    browser.open(f"{server.url}/dashboard/?server={other.url}")
    browser.wait(lambda: len(browser.all(".badge[data-state=ready]")) == 2, "both servers")
    time.sleep(LOADED)
    for name, scheme, phone in (
        ("dashboard", "light", False),
        ("dashboard-dark", "dark", False),
        ("dashboard-phone", "light", True),
    ):
        browser.emulate(scheme=scheme, **({"width": 390, "height": 844, "mobile": True} if phone else {}))
        time.sleep(3)  # the page asks again, and the charts take their new width
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


def main() -> None:
    done = threading.Event()
    with (
        serving_http("-num_worker", "2", "-max_seq_len", "40", model_dir=None) as server,
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
    main()
