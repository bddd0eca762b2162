"""Shares code between the commands that encode a sample of texts with a server."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

#: Number of texts per call of the client.
CHUNK_SIZE = 4096


def add_server(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name a server and its keys."""
    add = parser.add_argument
    add("-ip", "--ip", default="localhost", help="address of the server (default: %(default)s)")
    add(
        "-port",
        "-port_in",
        "--port",
        type=int,
        default=5555,
        metavar="PORT",
        help="-port of the server (default: %(default)s)",
    )
    add(
        "-port_out",
        "--port-out",
        type=int,
        default=5556,
        metavar="PORT",
        help="-port_out of the server (default: %(default)s)",
    )
    add(
        "-front",
        "--front",
        action="append",
        metavar="HOST",
        help="a server HOST[:PORT[:PORT_OUT]] in place of the three above. If repeated, servers of one model share the "
        "texts",
    )
    add("-server_key", "--server-key", metavar="KEY", help="public CURVE key of the server, or its file")
    add("-secret_key", "--secret-key", metavar="KEY", help="secret CURVE key of the client, or its file")


def text_chunks(lines: Iterator[str]) -> Iterator[list[str]]:
    """Yields the lines that are not blank, some thousand at a time."""
    texts = (line.strip() for line in lines)
    full = (text for text in texts if text)
    while chunk := list(itertools.islice(full, CHUNK_SIZE)):
        yield chunk
