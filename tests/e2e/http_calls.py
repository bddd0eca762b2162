"""Plain HTTP for tests: one request, one reply, over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client import BertClient
from servers import Server, free_ports, serving


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class HttpServer:
    """A server that speaks HTTP, and how to call it; with a bearer token, if ``key`` is set."""

    server: Server
    http_port: int
    key: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def call(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
        timeout: float = 60.0,
    ) -> Reply:
        """One request. ``body`` is sent as it is if bytes, else as JSON; header names of the reply in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = ({"Authorization": f"Bearer {self.key}"} if self.key else {}) | (headers or {})
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def zmq_client(self) -> BertClient:
        return BertClient(port=self.server.port, port_out=self.server.port_out, timeout=60_000, check_length=False)


@contextlib.contextmanager
def serving_http(*args: str | Path, **kwargs: object) -> Iterator[HttpServer]:
    """A server with an HTTP port, ready, and gone afterwards."""
    (port,) = free_ports(1)
    with serving("-http_port", str(port), *args, **kwargs) as server:
        yield HttpServer(server, port)


def float32(rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.float64).astype(np.float32)
