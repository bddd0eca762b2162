"""Sends random and mutated HTTP requests: no response has a status of 500 or above.

python tests/faults/http_fuzz.py 100000
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fuzz import GROWTH, SLACK, Fuzzer  # noqa: E402

from fault_helpers import assert_true, connect, faulty, memory, open_files, texts, wait_for_descriptors  # noqa: E402
from servers import Server, free_ports  # noqa: E402

#: What an answer may say of the server: it is busy, it lacks the method, or that version of HTTP.
EXCUSES = {501, 503, 505}
_PATHS = [
    *("/encode", "/v1/embeddings", "/invocations", "/v1/models", "/status/server", "/status/client", "/ping"),
    *("/", "/embed", "/embed_all", "/similarity", "/tokenize", "/decode", "/rerank", "/predict", "/classify"),
    *("/v2/rerank", "/v1/embed", "/v2/embed", "/info", "/health", "//embed//", "/embeddings"),
    *(
        "/embed_sparse",
        "/v1/rerank",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/dashboard/",
        "/dashboard/../../../etc/passwd",
        "/%ff%00",
    ),
    *("/v1/files", "/v1/files/file-1", "/v1/files/..%2f..%2fjobs/content", "/v1/batches", "/v1/batches/batch_1/cancel"),
]
_KEYS = ["id", "texts", "is_tokenized", "input", "model", "encoding_format", "dimensions", "user", "pairs"]
_KEYS += ["normalize", "prompt", "prompt_name", "truncate", "task"]
_KEYS += ["inputs", "ids", "query", "documents", "parameters", "source_sentence", "top_n", "raw_scores", "modality"]
_KEYS += ["embedding_type", "embedding_types", "input_type", "output_dimension", "content", "outputs", "by"]


class HttpFuzzer(Fuzzer):
    """Makes up requests as bytes; the same seed makes the same ones."""

    def request(self) -> tuple[bytes, bool]:
        """A request, and whether it is whole, so that there must be an answer."""
        if self.random.random() < 0.1:
            return self.bytes(self.random.choice([1, 20, 500])) + self.random.choice([b"", b"\r\n\r\n"]), False
        body = self._body()
        length = self.random.choice([b"%d" % len(body)] * 12 + [b"0", b"-1", b"99999999999", b"x"])
        is_whole = length == b"%d" % len(body)
        head = [self._line(), b"Host: localhost", b"Connection: close", b"Content-Length: " + length, *self._headers()]
        request = b"\r\n".join(head) + b"\r\n\r\n" + body
        if self.random.random() < 0.2:
            is_whole = False
            damaged = bytearray(request)
            for _ in range(self.random.randint(1, 6)):
                damaged[self.random.randrange(len(damaged))] = self.random.randrange(256)
            request = bytes(damaged)
        return request, is_whole

    def _line(self) -> bytes:
        method = self.random.choice(["POST"] * 6 + ["GET", "PUT", "OPTIONS", "HEAD", "BREW"])
        path = self.random.choice([*_PATHS[:3] * 8, *_PATHS[7:17] * 2, *_PATHS])
        query = self.random.choice(["", "", "", "?a=b", "?" + "x" * self._size(3000)])
        version = self.random.choice(["1.1"] * 8 + ["1.0", "9.9"])
        return f"{method} {path}{query} HTTP/{version}".encode()

    def _headers(self) -> list[bytes]:
        kind = self.random.choice([b"application/json"] * 5 + [b"text/plain", b"text/csv", b"multipart/form-data", b""])
        accept = self.random.choice([b"*/*", b"application/octet-stream", b"text/html;q=x", b"\xff"])
        headers = [b"Content-Type: " + kind, b"Accept: " + accept]
        if self.random.random() < 0.1:
            headers.append(self.random.choice([b"Content-Encoding: gzip", b"Content-Encoding: x", b"Expect: x"]))
        if self.random.random() < 0.1:
            headers.append(b"Authorization: " + self.bytes(10).replace(b"\n", b"").replace(b"\r", b""))
        if self.random.random() < 0.05:
            headers.append(b"X-Long: " + b"y" * self._size(20_000))
        return headers

    def _body(self) -> bytes:
        if self.random.random() < 0.3:  # the content of a ZeroMQ message
            return b"".join(self.message()[1:2])
        members = {key: self._value() for key in self.random.sample(_KEYS, self.random.randint(0, 4))}
        if self.random.random() < 0.5:
            name = self.random.choice(["texts", "input", "inputs", "documents"])
            members[name] = texts(self.random.choice([1, 2, 10]))
        return json.dumps(members).encode()

    def _value(self) -> object:
        plain = [None, True, -1, 0, 1e308, 10**30, "", "hello", "\ud800", "\0", "base64", "float"]
        lists = [[], [[]], [1, 2], [[1], [2]], [None], ["a", 1], [[10**20]], [-1], ["hello"] * self._size(3000)]
        outputs = [["dense"], ["sparse", "multi"], ["multi", {}], "sparse"]
        return self.random.choice([*plain, *lists, *outputs, {}, {"a": []}, "x" * self._size(20_000)])


def http_fuzz(server: Server, port: int, count: int, seed: int = 0) -> Counter[int]:
    """Sends ``count`` requests, after a third as many to warm up; returns how often each status came, 0 for none.

    Raises:
        AssertionError: a process died, a reply to the control client was wrong, a status was 500 or above, or the
            memory of a process grew.
    """
    fuzzer, seen = HttpFuzzer(seed), Counter[int]()
    before: dict[str, int] = {}
    started = time.monotonic()
    with connect(server) as control_client:
        control_client.encode(texts(300))
        restarts = control_client.server_status["num_restarts"]
        for number in range(-(count // 3), count):
            request, is_whole = fuzzer.request()
            status = _status_of(request, port, 60 if is_whole else 0.05)
            assert status or not is_whole, f"no answer to {request[:2000]!r}"
            assert status < 500 or status in EXCUSES, f"{status} for {request[:2000]!r}"
            seen[status] += 1
            if number % 500 == 499:
                mine = texts(3, number)
                assert_true(control_client.encode(mine), mine)
                assert control_client.server_status["num_restarts"] == restarts, server.log[-3000:]
            if number == 0:
                before, files = memory(server), open_files(server)
        after = memory(server)
        wait_for_descriptors(server, files, 20)
    for name, size in after.items():
        assert size < before[name] * GROWTH + SLACK, f"{name} grew from {before[name]} to {size} bytes"
    assert "Traceback" not in server.log, server.log[server.log.index("Traceback") :][:3000]
    print(f"{count} requests, {count * 4 / 3 / (time.monotonic() - started):.0f} a second; by status: {dict(seen)}")
    return seen


def _status_of(request: bytes, port: int, limit: float) -> int:
    """Returns the status of the first response; 0 if none arrives in ``limit`` seconds or the connection is closed."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 30) as sock, contextlib.suppress(ConnectionError, TimeoutError):
        sock.sendall(request)
        sock.settimeout(limit)
        while part := sock.recv(65536):
            answer += part
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    print(f"{count} requests, seed {seed}")
    (port,) = free_ports(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        faulty("-http_port", str(port), "-http_jobs", folder, engine="sound") as server,
    ):
        http_fuzz(server, port, count, seed)


if __name__ == "__main__":
    main()
