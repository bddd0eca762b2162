"""Names under load: an engine of a known speed computes the bulk of one name beside the queries of another."""

from __future__ import annotations

import json
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bert_serving.client._cli.encode import main as encode_command
from bert_serving.server.cli.keygen import keygen
from fault_helpers import connect, faulty, texts
from servers import free_ports, wait_until

FILE = """
[search]
keys = ["key-of-search"]

[archive]
keys = ["key-of-archive"]

[heavy]
keys = ["key-of-heavy"]
weight = 3
"""


class Site:
    """The HTTP server, and how each name calls it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def call(self, name: str, path: str, body: object = None) -> dict[str, object]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"Bearer key-of-{name}"})
        with urllib.request.urlopen(request, timeout=120) as response:
            found: dict[str, object] = json.loads(response.read())
        return found

    def encode(self, name: str, count: int, first: int) -> None:
        self.call(name, "/encode", {"texts": texts(count, first)})

    def tokens(self, name: str) -> tuple[int, int]:
        """Returns the accepted and the waiting tokens of a name."""
        shares: dict[str, dict[str, int]] = self.call("search", "/status/server")["shares"]  # type: ignore[assignment]
        return shares[name]["tokens"], shares[name]["waiting_tokens"]

    def start(self, name: str, count: int, first: int) -> threading.Thread:
        thread = threading.Thread(target=self.encode, args=(name, count, first), daemon=True)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path: Path = tmp_path_factory.mktemp("shares") / "keys.toml"
    path.write_text(FILE)
    (port,) = free_ports(1)
    with faulty("-http_port", str(port), "-http_keys", path, "-max_batch_tokens", "4096", engine="steady"):
        yield Site(port)


@pytest.mark.minutes
def test_queries_do_not_wait_for_the_bulk_of_another_name(site: Site) -> None:
    """The bulk takes four seconds at least, and its full batches 0.2 s each, of which two are at the worker."""
    site.encode("search", 1, 0)
    bulk = site.start("archive", 10_000, 1_000_000)
    wait_until(lambda: site.tokens("archive")[1] > 0, what="the bulk")
    took = []
    for number in range(20):
        began = time.monotonic()
        site.encode("search", 1, 1 + number)
        took.append(time.monotonic() - began)
    assert bulk.is_alive(), f"the queries took {took}"
    bulk.join(120)
    assert not bulk.is_alive()


@pytest.mark.minutes
def test_the_bulk_of_two_names_ends_in_the_order_of_their_weights(site: Site) -> None:
    first = site.start("archive", 6_000, 2_000_000)
    wait_until(lambda: site.tokens("archive")[1] > 0, what="the first bulk")
    second = site.start("heavy", 6_000, 3_000_000)
    second.join(120)
    assert first.is_alive(), "the name of weight 3 began later and ends earlier"
    first.join(120)
    assert not first.is_alive()


@pytest.mark.minutes
def test_a_limit_of_texts_in_a_minute_ends_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The text of the probe and the first request leave two of six texts; the second request waits a minute."""
    (tmp_path / "keys.toml").write_text("[alice]\ntexts_per_minute = 6\n")
    (tmp_path / "corpus.txt").write_text("".join(f"{line}\n" for line in texts(6)))
    keys = tmp_path / "KEYS"
    assert keygen([str(keys), "alice"]) == 0
    with faulty("-http_keys", tmp_path / "keys.toml", "-auth_keys", keys, engine="steady") as server:
        args = ["-server_key", str(keys / "server.key"), "-secret_key", str(keys / "alice.key_secret")]
        args += ["-port", str(server.port), "-port_out", str(server.port_out), "-o", str(tmp_path / "out.npy")]
        assert encode_command([str(tmp_path / "corpus.txt"), "-batch_size", "3", *args]) == 0
    assert len(np.load(tmp_path / "out.npy")) == 6
    lines = [line for line in capfd.readouterr().err.splitlines() if "waits" in line]
    assert len(lines) == 1
    assert "texts in a minute (texts_per_minute)" in lines[0]


@pytest.mark.minutes
def test_a_small_request_waits_for_one_batch_of_bulk_without_names() -> None:
    """Counts the tokens that the worker computes meanwhile. A full batch takes 0.2 s, on any machine."""
    full = 4096
    with (
        faulty("-max_batch_tokens", str(full), "-max_batch_size", "4096", engine="steady") as server,
        connect(server) as bulk,
        connect(server) as client,
    ):

        def num_tokens() -> int:
            return int(client.server_status["workers"][0]["tokens"])

        client.encode(texts(1))
        stream = bulk.encode_async(iter([texts(20_000, 1_000_000)]))
        wait_until(lambda: num_tokens() > 2 * full, what="the bulk")
        counts = []
        for number in range(15):
            before = num_tokens()
            client.encode(texts(1, 1 + number))
            counts.append(num_tokens() - before)
        assert client.server_status["queue"]["sequences"] > 0, "the bulk has ended"
        assert statistics.median(counts) < 1.6 * full, counts
        assert len(next(stream).embedding) == 20_000
