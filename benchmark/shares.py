"""Measures what the bulk of one name adds to the time of another name's single texts.

    python benchmark/shares.py
    python benchmark/shares.py --engines onnx --seconds 10 --rounds 9
    python benchmark/shares.py -- -num_worker 2

Arguments after ``--`` are flags of ``bert-serving-start``. The name ``search`` sends single texts over HTTP, each
connection with a pause after each reply. In every second interval, ``archive`` sends requests of many texts meanwhile.
Each pair of intervals gives a ratio of the 95th percentiles. The same is measured with one token for both, which is a
server without names. Senders run in two further processes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from host_path import sentences

from bert_serving.server.benchmark.managed_server import HOST, free_ports
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.supervisor.supervisor import BertServer
from heading import print_heading

KEYS = {"search": "key-of-search", "archive": "key-of-archive"}
#: Seconds of a running load before and after each interval that are not measured.
MARGIN = 0.3


def send(pipe: Connection, port: int, key: str, connections: int, size: int, pause: float) -> None:
    """Runs connections in threads. Each message in the pipe is a duration; the reply has the seconds of each request.

    Args:
        size: texts in a request.
        pause: mean of the seconds between two requests of a connection.
    """
    texts = sentences(max(2000, size))
    if size > 1:
        os.nice(10)  # senders of bulk are usually on other machines
    while (seconds := pipe.recv()) is not None:
        end = time.monotonic() + seconds
        took: list[float] = []

        def run(seed: int, end: float = end, took: list[float] = took) -> None:
            rng = random.Random(seed)
            connection = http.client.HTTPConnection(HOST, port, timeout=300)
            with contextlib.closing(connection):
                while time.monotonic() < end:
                    time.sleep(rng.uniform(0, 2 * pause))
                    first = rng.randrange(len(texts) - size + 1)
                    body = json.dumps({"texts": [f"{rng.random()} {text}" for text in texts[first : first + size]]})
                    began = time.perf_counter()
                    headers = {"Authorization": f"Bearer {key}", "Accept": "application/octet-stream"}
                    connection.request("POST", "/encode", body.encode(), headers)
                    response = connection.getresponse()
                    content = response.read()
                    if response.status != 200:
                        raise RuntimeError(f"{response.status}: {content[:300]!r}")
                    took.append(time.perf_counter() - began)

        threads = [threading.Thread(target=run, args=(random.randrange(2**31),)) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send(took)


@contextlib.contextmanager
def serving(options: list[str]) -> Iterator[int]:
    """Runs a server and yields its HTTP port."""
    port, port_out, http_port = free_ports(3)
    config = ServerConfig.from_args(read_args(options))
    server = BertServer(config.with_(host=HOST, port=port, port_out=port_out, http_port=http_port))
    with server:
        yield http_port


@contextlib.contextmanager
def sender(port: int, key: str, connections: int, size: int, pause: float) -> Iterator[Connection]:
    spawn = get_context("spawn")
    near, far = spawn.Pipe()
    process = spawn.Process(target=send, args=(far, port, key, connections, size, pause))
    process.start()
    try:
        yield near
    finally:
        near.send(None)
        process.join()


def percentile(values: list[float], share: float) -> float:
    return 1e3 * sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(args: argparse.Namespace, port: int, keys: dict[str, str]) -> dict[str, float]:
    """Returns medians over the rounds: milliseconds, ratios, and texts per second of the bulk."""
    rounds: list[dict[str, float]] = []
    with (
        sender(port, keys["search"], args.connections, 1, args.pause) as search,
        sender(port, keys["archive"], args.bulk_connections, args.size, 0.0) as archive,
    ):
        archive.send(1.0)
        archive.recv()
        archive.send(args.seconds)
        began = time.monotonic()
        alone_bulk = len(archive.recv()) * args.size / (time.monotonic() - began)
        search.send(1.0)
        search.recv()
        for _ in range(args.rounds):
            search.send(args.seconds)
            alone = search.recv()
            began = time.monotonic()
            archive.send(args.seconds + 2 * MARGIN)
            time.sleep(MARGIN)
            search.send(args.seconds)
            loaded = search.recv()
            bulk = len(archive.recv()) * args.size / (time.monotonic() - began)
            found = {"bulk": bulk}
            for name, share in (("p50", 0.5), ("p95", 0.95)):
                found |= {f"{name} alone": percentile(alone, share), f"{name} loaded": percentile(loaded, share)}
                found[f"{name} ratio"] = found[f"{name} loaded"] / found[f"{name} alone"]
            rounds.append(found)
    medians = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    ratios = [each["p95 ratio"] for each in rounds]
    return {**medians, "least": min(ratios), "most": max(ratios), "bulk alone": alone_bulk}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["zeros", "onnx"])
    parser.add_argument("--connections", type=int, default=4, help="connections of single texts")
    parser.add_argument("--pause", type=float, default=0.02, help="mean pause of such a connection, in seconds")
    parser.add_argument("--bulk_connections", type=int, default=2)
    parser.add_argument("--size", type=int, default=1024, help="texts of a bulk request")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of an interval")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="engine zeros, one round of a second")
    parser.add_argument("options", nargs="*", help="flags of bert-serving-start")
    args = parser.parse_args()
    if args.quick:
        args.engines, args.seconds, args.rounds = ["zeros"], 1.0, 1

    print_heading(
        f"Single texts of 5 to 10 words over HTTP, {args.connections} connections with a mean pause of "
        f"{1e3 * args.pause:.0f} ms; bulk: {args.bulk_connections} connections, {args.size} texts in a request. ms."
    )
    print("| engine | server | p50 alone | with bulk | p95 alone | with bulk | ratio of p95 | bulk, texts/s | alone |")
    print("|---|---|---:|---:|---:|---:|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.toml"
        path.write_text("".join(f'[{name}]\nkeys = ["{key}"]\n' for name, key in KEYS.items()))
        (Path(folder) / "token").write_text("token")
        for engine in args.engines:
            common = ["-cpu", "-engine", engine, *args.options]
            for title, options, keys in (
                ("one token", ["-http_token_file", f"{folder}/token"], dict.fromkeys(KEYS, "token")),
                ("names", ["-http_keys", str(path)], KEYS),
            ):
                with serving([*common, "-http_port", "1", *options]) as port:
                    found = measure(args, port, keys)
                times = " | ".join(
                    f"{found[f'{name} {load}']:.1f}" for name in ("p50", "p95") for load in ("alone", "loaded")
                )
                ratio = f"{found['p95 ratio']:.2f} ({found['least']:.2f} to {found['most']:.2f})"
                rates = f"{found['bulk']:,.0f} | {found['bulk alone']:,.0f}"
                print(f"| {engine} | {title} | {times} | {ratio} | {rates} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
