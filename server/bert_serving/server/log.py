"""Formats log lines as bert-as-service does, with a time in front, or as JSON objects.

``2026-01-31 12:00:00.123 I:VENTILATOR:[ven:run: 88]:all set, ready to serve request!``

A line has the first letter of the level, the process, and the file, function (three letters each) and line number.
Characters that are not printable are escaped, except tabs, so a message from outside is one line and controls no
terminal. Lines of a traceback begin with a tab. On a terminal, warnings are yellow and errors red.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime

from termcolor import colored

from .log_writer import LogWriter

#: Level of lines about single requests, between those of the server and those of texts.
REQUEST = 15
#: Values of ``-log_level`` and ``-log_format``.
LEVELS = {"quiet": logging.WARNING, "info": logging.INFO, "request": REQUEST, "debug": logging.DEBUG}
FORMATS = ("text", "json")

COLORS = {
    "VENTILATOR": "magenta",
    "SINK": "green",
    "WORKER": "yellow",
    "GRAPHOPT": "cyan",
    "PROXY": "red",
    "SUPERVISOR": "light_blue",
    "MACHINE": "light_blue",
}


def has_colors() -> bool:
    """Returns whether stderr is a terminal and takes colors: ``NO_COLOR``, then ``FORCE_COLOR`` decide otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    try:
        return os.environ.get("TERM") != "dumb" and os.isatty(2)
    except OSError:
        return False


class _Formatter(logging.Formatter):
    def __init__(self, context: str, is_colored: bool = False) -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S")
        color = COLORS.get(context.split("-")[0])
        self._is_colored = is_colored
        self.context = colored(context, color, force_color=True) if color and is_colored else context

    def format(self, record: logging.LogRecord) -> str:
        where = f"{record.filename[:3]}:{record.funcName[:3]}:{record.lineno:3d}"
        letter, message = level_name(record)[0].upper(), printable(record.getMessage())
        if letter == "R":
            letter = "D"
        if self._is_colored and record.levelno >= logging.WARNING:
            color = "red" if record.levelno >= logging.ERROR else "yellow"
            letter, message = (colored(each, color, force_color=True) for each in (letter, message))
        head = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d} {letter}"
        text = f"{head}:{self.context}:[{where}]:{message}"
        if record.exc_info:
            lines = self.formatException(record.exc_info).split("\n")
            text = "\n\t".join([text, *map(printable, lines)])
        return text


class _JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line."""

    def __init__(self, context: str) -> None:
        super().__init__()
        self.context = context

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": level_name(record),
            "part": self.context,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values)


def level_name(record: logging.LogRecord) -> str:
    """Returns ``debug``, ``request``, ``info``, ``warning`` or ``error``."""
    return "request" if record.levelno == REQUEST else record.levelname.lower()


def make_formatter(context: str, log_format: str) -> logging.Formatter:
    """Returns the formatter of a process for ``-log_format``."""
    return _JsonFormatter(context) if log_format == "json" else _Formatter(context, has_colors())


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


#: ``-log_format`` of the logger that was made last, for the line about dropped lines.
_last_format = "text"


@functools.cache
def _writer() -> LogWriter:
    def describe_dropped(count: int) -> str:
        text = f"{count} log lines were dropped, because stderr did not take them"
        values = {"msg": text, "levelno": logging.WARNING, "levelname": "WARNING"}
        place = {"filename": "log_writer.py", "funcName": "write", "lineno": 0}
        return f"{make_formatter('LOG', _last_format).format(logging.makeLogRecord(values | place))}\n"

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


def get_logger(context: str, level: str = "info", log_format: str = "text") -> logging.Logger:
    """Returns the logger of a process (``SINK``, ``WORKER-0``, ...), which writes to stderr.

    Args:
        level: ``-log_level``. The lines from one place are limited, unless requests are logged.
        log_format: ``-log_format``.
    """
    global _last_format
    _last_format = log_format
    logger = logging.getLogger(f"bert_serving.{context}")
    logger.propagate = False
    logger.setLevel(LEVELS[level])
    if not logger.handlers:
        logger.addHandler(_Handler())
    for handler in logger.handlers:
        if isinstance(handler, _Handler):
            handler.setFormatter(make_formatter(context, log_format))
    logger.filters[:] = [RateLimitFilter()] if LEVELS[level] >= logging.INFO else []
    return logger
