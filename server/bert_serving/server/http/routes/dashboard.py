"""The dashboard: its files, which lie in ``static/dashboard``, served at ``/dashboard/``.

The page asks ``/status/server`` and ``/metrics`` by itself. The files hold no secret and need no token.
"""

from __future__ import annotations

from importlib import resources
from pathlib import PurePosixPath

from flask import Blueprint, Response, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

#: The page may load only what comes with it. It may ask any server, as it can watch several.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' http: https:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".LICENSE": "text/plain",
    ".svg": "image/svg+xml",
}


def blueprint() -> Blueprint:
    routes = Blueprint("dashboard", __name__)
    files = _read()

    @routes.get("/dashboard")
    def without_slash() -> BaseResponse:
        return redirect("dashboard/")  # relative, for a proxy that puts a path in front

    @routes.get("/dashboard/")
    def page() -> BaseResponse:
        return file("index.html")

    @routes.get("/dashboard/<path:name>")
    def file(name: str) -> BaseResponse:
        if name not in files:
            raise NotFound
        response = Response(files[name], mimetype=_TYPES[PurePosixPath(name).suffix])
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-cache"  # ask whether it changed, every time
        response.add_etag()
        return response.make_conditional(request)

    return routes


def _read() -> dict[str, bytes]:
    """All files by their path below the folder. Nothing else can be asked for, whatever a path says."""
    found: dict[str, bytes] = {}
    folders = [(resources.files("bert_serving.server.http") / "static" / "dashboard", "")]
    while folders:
        folder, path = folders.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                folders.append((entry, f"{path}{entry.name}/"))
            elif PurePosixPath(entry.name).suffix in _TYPES:
                found[path + entry.name] = entry.read_bytes()
    return found
