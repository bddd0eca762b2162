"""Tests responses that are made without Flask's handling of a request: they equal those of the Flask application."""

from __future__ import annotations

import gzip
import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from flask import Response
from werkzeug.exceptions import BadRequest

from bert_serving.server.http import wsgi
from bert_serving.server.http.app import make_app
from bert_serving.server.http.direct_response import KEYS_READ, MAX_KIND_SIZE, MAX_KINDS, DirectResponses
from bert_serving.server.http.encoding_call import ENCODED_KEY, EncodingCall
from bert_serving.server.http.encoding_service import EncodingResult
from bert_serving.server.http.metrics import Metrics
from bert_serving.server.http.request_record import RequestRecorder

RESULT = EncodingResult(np.zeros((1, 4), np.float32), 3, [], 0, None, {"total": 0.001})
SMALL, LARGE = b'{"a": 1}', b'"%b"' % (b"x" * 2000)


class Application:
    """The Flask application, and the component that makes responses without it."""

    def __init__(self, cors: str = "*") -> None:
        service: Any = Mock(
            vector_space="space", model_name="model", labels=(), outputs=("dense",), dimensions=2, max_length=25
        )
        service.models = [service]
        service.config = SimpleNamespace(cors=cors, task="embed", pipeline=None)
        service.log = logging.getLogger("test")
        self.metrics = Metrics(Mock(), Mock(running=0, queued=0))
        recorder = RequestRecorder(self.metrics, service.log)
        self.flask = make_app(service, self.metrics, recorder)
        self.direct = DirectResponses(self.flask, recorder, "space")

    def both(self, headers: dict[str, str], body: bytes = SMALL) -> tuple[wsgi.WsgiResponse, wsgi.WsgiResponse]:
        """Returns the response of each to the same request."""
        call = EncodingCall([], lambda _: Response(body, mimetype="application/json"))
        environ = self.environ(headers)
        direct = self.direct.make(environ, "/encode", call, RESULT)
        handled = wsgi.call(self.flask, {**self.environ(headers), ENCODED_KEY: (call, RESULT)})
        return decompressed(direct), decompressed(handled)

    def environ(self, headers: dict[str, str]) -> dict[str, Any]:
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "method": "POST",
            "path": "/encode",
            "query_string": b"",
            "http_version": "1.1",
            "server": ("127.0.0.1", 8125),
            "client": ("127.0.0.1", 5000),
            "headers": encoded,
        }
        return wsgi.environ_of(scope, b"{}", 0.0)

    def count(self) -> float:
        """Returns the number of counted requests."""
        lines = self.metrics._requests.collect()
        return sum(
            sample.value
            for family in lines
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels == {"path": "/encode", "code": "200"}
        )


def decompressed(response: wsgi.WsgiResponse) -> wsgi.WsgiResponse:
    """Returns a response without the time in the compressed data of gzip."""
    if (b"Content-Encoding", b"gzip") not in response.headers:
        return response
    assert response.body is not None
    return response._replace(body=gzip.decompress(response.body))


@pytest.mark.parametrize("cors", ["*", "https://a.example", "https://*.a.example,https://b.example"])
def test_a_direct_response_equals_that_of_the_application(cors: str) -> None:
    application = Application(cors)
    for origin in ({}, {"Origin": "https://a.example"}, {"Origin": "https://x.a.example"}, {"Origin": "null"}):
        for coding in ({}, *({"Accept-Encoding": each} for each in ("identity", "gzip", "br;q=0, zstd", "*", "?"))):
            for other in ({}, {"Access-Control-Request-Private-Network": "true"}, {"Host": "b.example:1"}):
                for body in (SMALL, LARGE):
                    for _ in range(3):  # of a new kind, then of a known one
                        direct, handled = application.both({**origin, **coding, **other}, body)
                        assert direct == handled


def test_each_response_is_counted_once() -> None:
    application = Application()
    for number in range(1, 5):
        application.both({})
        assert application.count() == 2 * number


def test_a_request_without_a_route_gets_the_error_of_the_application() -> None:
    application = Application()
    for headers in ({"Host": "a" * 70}, {"Connection": "Upgrade", "Upgrade": "websocket"}):
        for _ in range(2):
            with pytest.raises(BadRequest):
                application.both(headers)
    assert application.both({"Host": "a", "Connection": "keep-alive"})[0].status == 200


def test_remembered_headers_are_bounded() -> None:
    application = Application("https://a.example")
    for number in range(MAX_KINDS + 10):
        application.both({"Origin": f"https://{number}.example"})
    application.both({"Origin": "x" * MAX_KIND_SIZE, "Host": "y"})
    assert 0 < len(application.direct._added) <= MAX_KINDS
    assert not any("x" * MAX_KIND_SIZE in kind for kind in application.direct._added)


def test_the_application_reads_no_other_headers() -> None:
    """A new version of an extension that reads other headers must fail here, because `KEYS_READ` lacks them."""
    read: set[str] = set()

    class Environ(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            read.add(key)
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            read.add(key)
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            read.add(str(key))
            return super().__contains__(key)

    application = Application("https://*.a.example")
    all_read = {"Origin": "https://x.a.example", "Accept-Encoding": "gzip", "Connection": "upgrade", "Upgrade": "h2c"}
    for headers in ({}, all_read):
        for body in (SMALL, LARGE):
            response = Response(body, mimetype="application/json")
            application.direct._process(Environ(application.environ(headers)), response)
    assert {"HTTP_ORIGIN", "HTTP_ACCEPT_ENCODING"} <= read
    assert {key for key in read if key.startswith("HTTP_")} <= set(KEYS_READ)
