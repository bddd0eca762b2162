"""Serves the files of the dashboard, in ``static/dashboard``, at ``/dashboard/``.

The page requests ``/status/server`` and ``/metrics`` itself. The files contain no secrets and need no token.
"""

from __future__ import annotations

from importlib import resources
from pathlib import PurePosixPath

from flask import Blueprint, Response, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

#: The page loads its own files only. It may connect to any server, because it can watch several.
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
        return redirect("dashboard/")  # relative, so that it works behind a proxy with a path prefix

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
        response.headers["Cache-Control"] = "no-cache"  # the browser revalidates on each request
        response.add_etag()
        return response.make_conditional(request)

    return routes


def _read() -> dict[str, bytes]:
    """Reads all files into memory, by path below the folder. A request cannot reach any other file."""
    files: dict[str, bytes] = {}
    folders = [(resources.files("bert_serving.server.http") / "static" / "dashboard", "")]
    while folders:
        folder, path = folders.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                folders.append((entry, f"{path}{entry.name}/"))
            elif PurePosixPath(entry.name).suffix in _TYPES:
                files[path + entry.name] = entry.read_bytes()
    return files
