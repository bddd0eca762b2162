"""Records finished requests in the metrics and in the log."""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import Response

from ..log import REQUEST
from .metrics import Metrics
from .wsgi import STARTED_KEY


class RequestRecorder:
    """Counts each finished request, and logs it with ``-log_level request``."""

    def __init__(self, metrics: Metrics, log: logging.Logger) -> None:
        self._metrics, self._log = metrics, log

    def record(self, environ: dict[str, Any], path: str, route: str, response: Response) -> None:
        """Records a request.

        Args:
            path: path of the request.
            route: path of its route, or ``other``. The metrics have one series for each.
        """
        seconds = time.perf_counter() - environ[STARTED_KEY]
        self._metrics.observe_request(route, response.status_code, seconds)
        if self._log.isEnabledFor(REQUEST):
            self._log.log(
                REQUEST,
                "%s %s %s %d %d bytes %.1f ms",
                environ["REMOTE_ADDR"],
                environ["REQUEST_METHOD"],
                escape_untrusted(path),
                response.status_code,
                response.content_length or 0,
                seconds * 1000,
            )


def escape_untrusted(text: str) -> str:
    """Escapes untrusted text for the log: no line breaks, no control codes."""
    return text if text.isprintable() else ascii(text)[1:-1]
