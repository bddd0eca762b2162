"""Shares code between the commands that encode a sample of texts with a server."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from bert_serving.client import BertClient, BertServingError
from bert_serving.client.command_parser import CommandParser, describe_error
from bert_serving.client.rate_limits import LimitReport

from ..errors import ServingError
from ..model.errors import ModelError

T = TypeVar("T")

#: Number of texts per call of the client.
CHUNK_SIZE = 4096


def sample_parser(prog: str, description: str, epilog: str, texts: str) -> CommandParser:
    """Returns the parser of a command, with the file of texts and the file to write.

    Args:
        texts: help of the first file.
    """
    parser = CommandParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
    )
    parser.add_argument("file", metavar="FILE", help=texts)
    parser.add_argument("-o", "-output", "--output", required=True, metavar="OUT", help="JSON file to write")
    return parser


def require_folder_of(output: str) -> None:
    """Checks that the folder of the file to write exists, before texts are encoded for it.

    Raises:
        OSError: it does not, or is no folder.
    """
    os.stat(os.path.join(os.path.dirname(output) or ".", ""))


def measured(
    prog: str, args: argparse.Namespace, measure: Callable[[argparse.Namespace], T], to_text: Callable[[T], str]
) -> T | None:
    """Measures the texts of a command, and writes the file. Returns what it measured; after an error prints it: None.

    Args:
        measure: encodes the texts of ``args.file``.
        to_text: returns the content of ``args.output``.
    """
    try:
        require_folder_of(args.output)
        found = measure(args)
        with open(args.output, "w", encoding="utf-8") as out:
            out.write(to_text(found) + "\n")
        return found
    except UnicodeDecodeError as error:
        reason = f"{args.file} is not UTF-8: {error}; convert it to UTF-8"
    except (BertServingError, ServingError, ModelError, ValueError, OSError) as error:
        reason = describe_error(error)
    print(f"{prog}: {reason}", file=sys.stderr)
    return None


def connect(args: argparse.Namespace) -> BertClient:
    """Returns a client of the server that the flags of :func:`add_server` name."""
    return BertClient(
        ip=args.front or args.ip,
        **({} if args.front else {"port": args.port, "port_out": args.port_out}),
        check_length=False,
        server_key=args.server_key,
        secret_key=args.secret_key,
        model=args.chosen_model,
    )


def limit_report(prog: str) -> LimitReport:
    """Returns what prints to stderr that a command waits for a limit of the server."""
    return LimitReport(lambda text: print(f"{prog}: {text}", file=sys.stderr, flush=True))


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
    add(
        "-model",
        "--model",
        dest="chosen_model",
        metavar="NAME",
        help="model of a server with several; by default its first one",
    )
    add("-server_key", "--server-key", metavar="KEY", help="public CURVE key of the server, or its file")
    add("-secret_key", "--secret-key", metavar="KEY", help="secret CURVE key of the client, or its file")


def text_chunks(lines: Iterator[str]) -> Iterator[list[str]]:
    """Yields the lines that are not blank, some thousand at a time."""
    texts = (line.strip() for line in lines)
    full = (text for text in texts if text)
    while chunk := list(itertools.islice(full, CHUNK_SIZE)):
        yield chunk
