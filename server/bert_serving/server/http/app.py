"""Builds the web application: routes, authentication, metrics, request log and error responses.

Extensions of Flask: flask-cors for the CORS headers (``cors``), flask-compress for compressed responses, and flask-json
for the ``status`` key in JSON responses, as in 1.10.0.
"""

from __future__ import annotations

from flask import Flask, Response, request
from flask_compress import Compress
from flask_json import FlaskJSON
from werkzeug.exceptions import HTTPException

from ..log import REQUEST
from .batch_jobs.store import Store
from .cors import add_cors
from .encoding_service import EncodingService
from .error_format import format_error
from .errors import ErrorResponse, Unauthorized, to_error_response
from .http_access import HttpAccess
from .metrics import Metrics
from .paths import JOB_PREFIXES, is_public
from .request_context import JSON, VECTOR_SPACE
from .request_record import RequestRecorder, escape_untrusted
from .route_table import add_encoding_routes
from .routes import batch_jobs, dashboard, encode, openai, openapi, operations, tei, tei_tokens
from .wsgi import REFUSAL_KEY


def make_app(
    service: EncodingService,
    metrics: Metrics,
    recorder: RequestRecorder,
    access: HttpAccess | None = None,
    store: Store | None = None,
) -> Flask:
    """Builds the WSGI application.

    Args:
        access: checks the token or the key of requests, except public ones; None accepts all.
        store: folder of the batch jobs; None if the server runs none.
    """
    access = access or HttpAccess()
    app = Flask(__name__, static_folder=None)
    FlaskJSON(app)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    add_cors(app, service.config.cors)
    # Higher compression levels take five times as long and hardly shrink vectors further.
    app.config.update(COMPRESS_LEVEL=1, COMPRESS_BR_LEVEL=1, COMPRESS_ZSTD_LEVEL=1, COMPRESS_MIN_SIZE=1024)
    Compress(app)

    add_encoding_routes(app, service)
    for routes in (encode.blueprint(service), openai.blueprint(service), operations.blueprint(service, metrics)):
        app.register_blueprint(routes)
    app.register_blueprint(tei.blueprint(service))
    app.register_blueprint(tei_tokens.blueprint(service))
    if store is not None:
        app.register_blueprint(batch_jobs.blueprint(service, store, access))
    app.register_blueprint(openapi.blueprint(has_jobs=store is not None))
    app.register_blueprint(dashboard.blueprint())
    for rule in app.url_map.iter_rules():
        metrics.init_labels(rule.rule)

    @app.before_request
    def begin() -> None:
        if not access.is_open and not is_public(request.method, request.path):
            _check_token(access)
        refusal = request.environ.get(REFUSAL_KEY)
        if refusal is not None:
            raise refusal

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers.setdefault(VECTOR_SPACE, service.vector_space)  # vectors may be of another space
        route = request.url_rule.rule if request.url_rule else "other"
        recorder.record(request.environ, request.path, route, response)
        return response

    @app.errorhandler(HTTPException)
    def on_http_error(error: HTTPException) -> Response:
        """Converts errors that Flask raises itself: unknown path, wrong method."""
        response = error.get_response()
        if error.code is not None and error.code < 400:
            return response  # type: ignore[return-value]  # a redirect
        allowed = response.headers.get("Allow")
        message = error.description or error.name
        if error.code == 404:
            message = f"the path {request.path} does not exist; /docs lists the paths"
            if store is None and request.path.startswith(JOB_PREFIXES):
                message = f"the path {request.path} does not exist: this server has no batch jobs (-http_jobs DIR)"
        elif allowed:
            message = f"{request.path} does not allow {request.method}; allowed: {allowed}"
        converted = _respond(ErrorResponse(error.code or 500, type(error).__name__, message))
        if allowed:
            converted.headers["Allow"] = allowed
        return converted

    @app.errorhandler(Exception)
    def on_error(error: Exception) -> Response:
        response = to_error_response(error)
        if response.status == 500:
            service.log.exception(
                "unexpected error in HTTP request %s %s", request.method, escape_untrusted(request.path)
            )
        elif response.status > 500 or service.log.isEnabledFor(REQUEST):
            message = escape_untrusted(str(error).replace("\n", " "))
            service.log.warning(
                "%s %s answered with %d: %s", request.method, escape_untrusted(request.path), response.status, message
            )
        return _respond(response)

    return app


def _respond(error: ErrorResponse) -> Response:
    status, body = format_error(error, request.path)
    response = Response(body, status, mimetype=JSON)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _check_token(access: HttpAccess) -> None:
    """Checks the header ``Authorization``.

    Raises:
        Unauthorized: the token is missing or wrong.
    """
    if not access.allows(request.headers.get("Authorization", "")):
        raise Unauthorized("the bearer token is missing or wrong: send the header 'Authorization: Bearer <token>'")
