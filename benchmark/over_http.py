"""Compares HTTP with ZeroMQ: the same sentences through both interfaces of one server, alternately.

    python benchmark/over_http.py
    python benchmark/over_http.py -rounds 7 -out http.md -- -model_dir /models/bert -num_worker 2

Arguments after ``--`` are flags of ``bert-serving-start``. Two loads: 64 keep-alive connections with one sentence per
request, against 64 ZeroMQ clients; and a few connections with many sentences per request, whose vectors arrive as JSON,
base64 or raw bytes. Each round measures every transport once, in alternating order. Ratios are those of one round.
Senders run in separate processes and decode every response to a numpy array. Both transports have the same number of
sender processes and threads.

Other work on the machine changes rates more than processor time. So the tables also have the processor time of a
sentence in the HTTP process, in the other processes of the server, and in the senders: the least of the rounds. Its sum
for ZeroMQ, divided by that of a transport, is the ratio of the rates on a machine whose cores are busy all the time.

With ``-engine zeros``, the result is the cost and the maximum throughput of the interfaces.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import psutil

from bert_serving.client import BertClient, BertServingError
from bert_serving.server.benchmark.machine import machine, versions
from bert_serving.server.benchmark.managed_server import HOST, free_ports
from texts import sts_sentences

#: Maximum senders per process: more senders would wait for the interpreter lock instead of the server.
SENDERS_PER_PROCESS = 32
ZEROMQ = "ZeroMQ"
HTTP_FORMS = ("raw", "base64", "JSON")
#: The API of OpenAI, with base64 as its client library requests it.
OPENAI = "/v1/embeddings"


class Connection:
    """A keep-alive HTTP connection with minimal overhead, so that the server is measured."""

    def __init__(self, port: int, texts: list[str], form: str) -> None:
        path, field = (OPENAI, "input") if form == OPENAI else ("/encode", "texts")
        values = {field: texts} | ({"encoding_format": "base64"} if form in ("base64", OPENAI) else {})
        body = json.dumps(values).encode()
        accept = "application/octet-stream" if form == "raw" else "application/json"
        self._request = (
            f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._socket = socket.create_connection((HOST, port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb", 2**20)
        self._read = {"raw": _raw, "base64": _base64, "JSON": _json, OPENAI: _openai}[form]

    def encode(self) -> np.ndarray:
        self._socket.sendall(self._request)
        status = self._file.readline()
        headers: dict[bytes, bytes] = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers.get(b"content-length", 0)))
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {body[:300].decode(errors='replace')}")
        return self._read(headers, body)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def _raw(headers: dict[bytes, bytes], body: bytes) -> np.ndarray:
    shape = [int(number) for number in headers[b"x-shape"].split(b",")]
    return np.frombuffer(body, headers[b"x-dtype"].decode()).reshape(shape)


def _base64(_: dict[bytes, bytes], body: bytes) -> np.ndarray:
    answer = orjson.loads(body)
    joined = b"".join(map(base64.b64decode, answer["results"]))
    return np.frombuffer(joined, answer["dtype"]).reshape(answer["shape"])


def _openai(_: dict[bytes, bytes], body: bytes) -> np.ndarray:
    rows = [base64.b64decode(item["embedding"]) for item in orjson.loads(body)["data"]]
    return np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1)


def _json(_: dict[bytes, bytes], body: bytes) -> np.ndarray:
    return np.array(orjson.loads(body)["results"], np.float32)


# -- a sender process --------------------------------------------------------------------------------------------------


def run_senders() -> None:
    """Reads a job (a line of JSON), reports readiness, waits for a line, sends requests and reports the counts."""
    job = json.loads(sys.stdin.readline())
    senders = [_sender(job, texts) for texts in job["texts"]]
    for encode, _ in senders:
        encode()
    _write_message("ready")
    sys.stdin.readline()
    counts, failures = [0] * len(senders), []
    ends = time.perf_counter() + job["seconds"]

    def work(index: int) -> None:
        encode = senders[index][0]
        try:
            while time.perf_counter() < ends and not failures:
                encode()
                counts[index] += 1
        except (BertServingError, OSError, RuntimeError, ValueError) as error:
            failures.append(f"{type(error).__name__}: {error}")

    began, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(senders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    _write_message({"requests": sum(counts), "seconds": seconds, "cpu": cpu, "failures": failures})
    for _, close in senders:
        close()


def _sender(job: dict[str, Any], texts: list[str]) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Returns functions that send a request and wait for its vectors, and that close the connection."""
    if job["transport"] == ZEROMQ:
        client = BertClient(**job["ports"], timeout=60_000, check_length=False)
        return (lambda: client.encode(texts)), client.close
    connection = Connection(job["http_port"], texts, job["transport"])
    return connection.encode, connection.close


def _write_message(value: Any) -> None:
    print(json.dumps(value), flush=True)


# -- the measurement ---------------------------------------------------------------------------------------------------


@contextmanager
def serving(flags: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Runs a server with these flags in separate processes; yields the ports."""
    port, port_out, http_port = free_ports(3)
    ports = ["-host", HOST, "-port", str(port), "-port_out", str(port_out), "-http_port", str(http_port)]
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "bert_serving.server", *ports, *flags]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment())
        try:
            deadline = time.monotonic() + seconds
            while not _is_ready(http_port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"the server did not start:\n{log.read().decode(errors='replace')}")
                time.sleep(0.2)
            yield {"ports": {"port": port, "port_out": port_out}, "http_port": http_port, "pid": process.pid}
        finally:
            process.terminate()
            process.wait()


def _is_ready(http_port: int) -> bool:
    try:
        with socket.create_connection((HOST, http_port), 5) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.makefile("rb").readline()
    except OSError:
        return False


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path[1:]))}


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Returns the processor seconds of the HTTP process of a server, and of all its other processes."""
    supervisor = psutil.Process(pid)
    http = rest = 0.0
    for process in (supervisor, *supervisor.children(recursive=True)):
        seconds = sum(process.cpu_times()[:2])
        if "bert-serving-http" in process.cmdline():
            http += seconds
        else:
            rest += seconds
    return http, rest


class Measurement(NamedTuple):
    """Sentences per second, and processor seconds of a sentence in each component."""

    rate: float
    http: float
    server: float
    senders: float

    @property
    def cpu(self) -> float:
        return self.http + self.server + self.senders


def measure(job: dict[str, Any], texts: list[list[str]]) -> Measurement:
    """Measures senders that repeat the same texts."""
    shares = [texts[start : start + SENDERS_PER_PROCESS] for start in range(0, len(texts), SENDERS_PER_PROCESS)]
    command = [sys.executable, str(Path(__file__).resolve()), "--senders"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment())
        for _ in shares
    ]
    try:
        for process, share in zip(processes, shares, strict=True):
            _write_line(process, json.dumps({**job, "texts": share}))
        for process in processes:
            _read_message(process)
        http, server = cpu_seconds(job["pid"])
        for process in processes:
            _write_line(process, "go")
        done = [_read_message(process) for process in processes]
        http_after, server_after = cpu_seconds(job["pid"])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    failures = [failure for one in done for failure in one["failures"]]
    if failures:
        sys.exit(f"{len(failures)} senders failed over {job['transport']}; the first: {failures[0]}")
    size = len(texts[0])
    sentences = sum(one["requests"] for one in done) * size
    return Measurement(
        rate=sum(one["requests"] * size / one["seconds"] for one in done),
        http=(http_after - http) / sentences,
        server=(server_after - server) / sentences,
        senders=sum(one["cpu"] for one in done) / sentences,
    )


def _write_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _read_message(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit("a sender process ended; see its output above")
    return json.loads(line)


def compare(
    facts: dict[str, Any], texts: list[list[str]], transports: tuple[str, ...], args: argparse.Namespace
) -> str:
    """Returns a table of the transports: sentences per second, processor time, and the ratios to ZeroMQ."""
    found: dict[str, list[Measurement]] = {transport: [] for transport in transports}
    for number in range(args.rounds):
        for transport in transports if number % 2 == 0 else transports[::-1]:
            found[transport].append(measure({**facts, "transport": transport, "seconds": args.seconds}, texts))
            rate = found[transport][-1].rate
            print(f"round {number + 1}, {transport}: {rate:.0f} sentences/s", file=sys.stderr, flush=True)
    rows = [
        "| transport | sentences/s, median | least, most | of ZeroMQ, median | least, most "
        "| by processor time | ms: HTTP process | server | senders |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for transport in transports:
        pairs = list(zip(found[transport], found[ZEROMQ], strict=True))
        ratios = [one.rate / other.rate for one, other in pairs]
        by_time = statistics.median(other.cpu / one.cpu for one, other in pairs)
        rates = [one.rate for one in found[transport]]
        times = " | ".join(
            f"{1000 * min(getattr(one, name) for one in found[transport]):.2f}"
            for name in ("http", "server", "senders")
        )
        rows.append(
            f"| {transport} | {statistics.median(rates):,.0f} | {min(rates):,.0f}, {max(rates):,.0f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f}, {max(ratios):.2f} | {by_time:.2f} | {times} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-rounds", type=int, default=5, help="rounds of measurements (default: %(default)s)")
    parser.add_argument("-seconds", type=float, default=5.0, help="seconds of each measurement (default: %(default)s)")
    parser.add_argument(
        "-connections", type=int, default=64, help="connections with one sentence per request (default: %(default)s)"
    )
    parser.add_argument(
        "-bulk_connections",
        type=int,
        default=2,
        help="connections with many sentences per request (default: %(default)s)",
    )
    parser.add_argument(
        "-bulk_size", type=int, default=1024, help="sentences per request of the latter (default: %(default)s)"
    )
    parser.add_argument(
        "-start_timeout",
        type=float,
        default=600,
        help="maximum seconds until the server is ready (default: %(default)s)",
    )
    parser.add_argument("-out", type=Path, help="file for the Markdown; default: stdout")
    parser.add_argument("server", nargs="*", help="flags of bert-serving-start, after --")
    args = parser.parse_args()
    sentences = sts_sentences()
    single = [[sentences[index % len(sentences)]] for index in range(args.connections)]
    bulk = [
        [sentences[(first + index) % len(sentences)] for index in range(args.bulk_size)]
        for first in range(args.bulk_connections)
    ]
    with serving(args.server, args.start_timeout) as facts:
        small = compare(facts, single, (ZEROMQ, OPENAI, "JSON"), args)
        large = compare(facts, bulk, (ZEROMQ, *HTTP_FORMS), args)
    text = (
        f"# HTTP and ZeroMQ\n\n`{shlex.join(['bert-serving-start', *args.server])}`, {args.rounds} rounds of "
        f"{args.seconds:g} s.\n\n"
        f"{args.connections} connections, one sentence at a time each:\n\n{small}\n\n"
        f"{args.bulk_connections} connections, {args.bulk_size} sentences in a request:\n\n{large}\n\n"
        f"```json\n{json.dumps({**machine(), 'versions': versions()}, indent=1)}\n```\n"
    )
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_senders() if sys.argv[1:] == ["--senders"] else main()
