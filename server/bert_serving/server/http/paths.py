"""Normalizes the paths of requests, and names those that need no token."""

from __future__ import annotations

import re

#: Further paths of a route, for programs whose base URL has no ``/v1``.
ALIASES = {"/embeddings": "/v1/embeddings"}
#: Paths of rankings on a server with ``-task rerank``.
RERANK_PATHS = frozenset(("/", "/invocations", "/rerank", "/v1/rerank", "/v2/rerank"))
#: Paths that return, or compare, sparse vectors or vectors of tokens without the field ``outputs`` or ``query``.
OUTPUT_PATHS = frozenset(("/embed_sparse", "/embed_all"))
#: Prefixes of the paths of files and batch jobs.
JOB_PREFIXES = ("/v1/files", "/v1/batches")
#: Paths whose GET requests need no token, because load balancers and browsers that open a page send none.
_PUBLIC = frozenset(("/healthz", "/readyz", "/health", "/ping", "/", "/docs", "/openapi.json", "/dashboard"))
#: Prefixes of further such paths.
_PUBLIC_PREFIXES = ("/dashboard/",)
#: Prefixes of paths that keep a slash at their end: the links of these pages are relative.
_PAGES = ("/docs/", "/dashboard/")
_SLASHES = re.compile("/{2,}")


def canonical_path(path: str) -> str:
    """Returns the path of the route: without doubled slashes, a slash at the end, and aliases.

    Every check uses this path, so that no spelling of a path avoids a check.
    """
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if not path.startswith(_PAGES):
        path = path.rstrip("/") or "/"
    return ALIASES.get(path, path)


def is_public(method: str, path: str) -> bool:
    """Returns whether a request needs no token. ``path`` is canonical."""
    if method == "OPTIONS":  # a preflight request of a browser, which has no token
        return True
    return method in ("GET", "HEAD") and (path in _PUBLIC or path.startswith(_PUBLIC_PREFIXES))
