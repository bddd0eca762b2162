"""The web application: its routes, and what is done for each request, whatever its route.

Flask with flask-cors (who may call from a browser), flask-compress (bodies packed for those who ask for it) and
flask-json (the ``status`` in JSON answers, as 1.10.0 had it).
"""

from __future__ import annotations

import hmac
import logging
import time

import orjson
from flask import Flask, Response, g, request
from flask_compress import Compress
from flask_cors import CORS
from flask_json import FlaskJSON
from werkzeug.exceptions import HTTPException

from ..config.cors import parse_origins
from .encoding_service import EncodingService
from .errors import Answer, Unauthorized, answer_to, body_of
from .metrics import Metrics
from .request_context import JSON
from .routes import dashboard, encode, openai, operations
from .routes import openapi as description

#: Routes that need no token: a load balancer has none, nor has a browser that opens a page.
OPEN_PATHS = frozenset(("/healthz", "/readyz", "/ping", "/", "/docs", "/openapi.json", "/dashboard"))
#: The same, with all that is below them.
OPEN_FOLDERS = ("/dashboard/",)
#: Headers of ours that scripts of other origins may read.
_EXPOSED = ["X-Shape", "X-Dtype", "X-Num-Tokens", "X-Num-Truncated", "Retry-After", "Server-Timing"]


def make_app(door: EncodingService, metrics: Metrics, token: str | None = None) -> Flask:
    """The WSGI application.

    Args:
        token: if given, what callers must send as ``Authorization: Bearer <token>``.
    """
    app = Flask(__name__, static_folder=None)
    FlaskJSON(app)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    CORS(app, origins=parse_origins(door.config.cors), send_wildcard=True, expose_headers=_EXPOSED, max_age=3600)
    # Vectors hardly shrink further at higher levels, which take five times as long.
    app.config.update(COMPRESS_LEVEL=1, COMPRESS_BR_LEVEL=1, COMPRESS_ZSTD_LEVEL=1, COMPRESS_MIN_SIZE=1024)
    Compress(app)

    for routes in (encode.blueprint(door), openai.blueprint(door), operations.blueprint(door, metrics)):
        app.register_blueprint(routes)
    app.register_blueprint(description.blueprint())
    app.register_blueprint(dashboard.blueprint())
    for rule in app.url_map.iter_rules():
        metrics.expect(rule.rule)

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        is_open = request.path in OPEN_PATHS or request.path.startswith(OPEN_FOLDERS)
        if token and request.method != "OPTIONS" and not is_open:
            _check_token(token)

    @app.after_request
    def finish(response: Response) -> Response:
        seconds = time.perf_counter() - g.get("started", time.perf_counter())
        path = request.url_rule.rule if request.url_rule else "other"
        metrics.saw(path, response.status_code, seconds)
        if door.log.isEnabledFor(logging.DEBUG):
            door.log.debug(
                "%s %s %s %d %d bytes %.1f ms",
                request.remote_addr,
                request.method,
                _plain(request.path),
                response.status_code,
                response.content_length or 0,
                seconds * 1000,
            )
        return response

    @app.errorhandler(HTTPException)
    def on_http_error(error: HTTPException) -> Response:
        """What Flask itself refuses: no such path, wrong method."""
        response = error.get_response()
        if error.code is not None and error.code < 400:
            return response  # type: ignore[return-value]  # a redirect
        allowed = response.headers.get("Allow")
        message = error.description or error.name
        if error.code == 404:
            message = f"there is no {request.path} here; /docs lists what there is"
        elif allowed:
            message = f"{request.path} does not take {request.method}, but {allowed}"
        made = _respond(Answer(error.code or 500, type(error).__name__, message))
        if allowed:
            made.headers["Allow"] = allowed
        return made

    @app.errorhandler(Exception)
    def on_error(error: Exception) -> Response:
        answer = answer_to(error)
        if answer.status == 500:
            door.log.exception("error when handling HTTP request %s %s", request.method, _plain(request.path))
        elif answer.status > 500 or door.log.isEnabledFor(logging.DEBUG):
            said = _plain(str(error).replace("\n", " "))
            door.log.warning("%s %s answered with %d: %s", request.method, _plain(request.path), answer.status, said)
        return _respond(answer)

    return app


def _plain(text: str) -> str:
    """Text of a stranger as it may stand in a log: no line of its own making, no codes for a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _respond(answer: Answer) -> Response:
    response = Response(orjson.dumps(body_of(answer, request.path)), answer.status, mimetype=JSON)
    if answer.retry_after is not None:
        response.headers["Retry-After"] = str(answer.retry_after)
    if answer.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _check_token(token: str) -> None:
    """Compares in constant time, so that a wrong token does not tell how much of it is right."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # A header reaches Python as Latin-1, whatever it was written in.
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        given.strip().encode("latin-1", "replace"), token.encode()
    ):
        raise Unauthorized("this server wants its token: send the header 'Authorization: Bearer <token>'")
