"""Formats log lines as bert-as-service does, with a time in front.

``2026-01-31 12:00:00.123 I:VENTILATOR:[ven:run: 88]:all set, ready to serve request!``

A line has the first letter of the level, the process, and the file, function (three letters each) and line number.
Characters that are not printable are escaped, except tabs, so a message from outside is one line and controls no
terminal. Lines of a traceback begin with a tab.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable

from termcolor import colored

from .log_writer import LogWriter

COLORS = {
    "VENTILATOR": "magenta",
    "SINK": "green",
    "WORKER": "yellow",
    "GRAPHOPT": "cyan",
    "PROXY": "red",
    "SUPERVISOR": "blue",
}


class _Formatter(logging.Formatter):
    def __init__(self, context: str) -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S")
        color = COLORS.get(context.split("-")[0])
        self.context = colored(context, color) if color else context

    def format(self, record: logging.LogRecord) -> str:
        where = f"{record.filename[:3]}:{record.funcName[:3]}:{record.lineno:3d}"
        head = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d} {record.levelname[0]}"
        text = f"{head}:{self.context}:[{where}]:{printable(record.getMessage())}"
        if record.exc_info:
            lines = self.formatException(record.exc_info).split("\n")
            text = "\n\t".join([text, *map(printable, lines)])
        return text


def printable(text: str) -> str:
    """Escapes all characters but tabs that are not printable, such as line breaks and control codes, like ``repr``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


class RateLimitFilter(logging.Filter):
    """Limits the lines per second from one place in the code, and reports the number of suppressed lines.

    So a client that sends a million invalid messages does not fill the disk. Errors are never suppressed.
    """

    def __init__(self, limit: int = 20, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limit, self._clock = limit, clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # place -> start of its second, lines since then

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return True
        place, now = (record.pathname, record.lineno), self._clock()
        since, count = self._seen.get(place, (now, 0))
        if now - since >= 1:
            if count > self._limit:
                record.msg = f"{record.getMessage()} ({count - self._limit} similar lines suppressed)"
                record.args = ()
            since, count = now, 0
        self._seen[place] = since, count + 1
        return count < self._limit


class _Handler(logging.Handler):
    """Writes to the process's stderr through the common writer, or to a replacement of ``sys.stderr`` directly."""

    def emit(self, record: logging.LogRecord) -> None:
        write_text(f"{self.format(record)}\n")

    def flush(self) -> None:
        flush_log()


@functools.cache
def _writer() -> LogWriter:
    def describe_dropped(count: int) -> str:
        text = f"{count} log lines were dropped, because stderr did not take them"
        values = {"msg": text, "levelname": "WARNING", "filename": "log_writer.py", "funcName": "write", "lineno": 0}
        return f"{_Formatter('LOG').format(logging.makeLogRecord(values))}\n"

    return LogWriter(2, describe_dropped)


def write_text(text: str) -> None:
    """Writes to stderr. Never blocks or fails."""
    if sys.stderr is sys.__stderr__:
        _writer().write(text)
    else:  # the program that runs the server replaced it
        sys.stderr.write(text)
        sys.stderr.flush()


def flush_log() -> None:
    """Waits for lines on their way to stderr, at most a second."""
    if sys.stderr is sys.__stderr__:
        _writer().flush()


def get_logger(context: str, verbose: bool = False) -> logging.Logger:
    """Returns the logger of a process (``SINK``, ``WORKER-0``, ...), which writes to stderr."""
    logger = logging.getLogger(f"bert_serving.{context}")
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not logger.handlers:
        handler = _Handler()
        handler.setFormatter(_Formatter(context))
        logger.addHandler(handler)
        if not verbose:
            logger.addFilter(RateLimitFilter())
    return logger
