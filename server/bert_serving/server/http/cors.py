"""Adds the CORS headers to all responses. ``config/cors.py`` parses the value of ``-cors``."""

from __future__ import annotations

from flask import Flask
from flask_cors import CORS

from ..config.cors import parse_origins

#: Response headers that scripts of other origins may read.
EXPOSED_HEADERS = [
    "X-Vector-Space",
    "X-Shape",
    "X-Dtype",
    "X-Num-Tokens",
    "X-Num-Truncated",
    "Retry-After",
    "Server-Timing",
]
#: Seconds that a browser may store the answer to a preflight request.
MAX_AGE = 3600


def add_cors(app: Flask, origins: str) -> None:
    """Adds the headers for ``origins``, the value of ``-cors``."""
    CORS(
        app,
        origins=parse_origins(origins),
        send_wildcard=True,
        expose_headers=EXPOSED_HEADERS,
        max_age=MAX_AGE,
    )
