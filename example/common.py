"""Provides options for the address of a server, servers for examples, and the texts in ``data``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bert_serving.client import BertClient, BertServingError

DATA = Path(__file__).parent / "data"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with ``-ip``, ``-port`` and ``-port_out``; an example adds its own options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="See example/README.md."
    )
    parser.add_argument("-ip", default="localhost", help="address of the server (default: %(default)s)")
    parser.add_argument("-port", type=int, default=5555, help="the server's -port (default: %(default)s)")
    parser.add_argument("-port_out", type=int, default=5556, help="the server's -port_out (default: %(default)s)")
    return parser


@contextlib.contextmanager
def needed(command: str) -> Iterator[None]:
    """Ends the example with a message if an import in the ``with`` block fails; ``command`` installs the packages."""
    try:
        yield
    except ImportError as error:
        raise SystemExit(f"this example needs more packages ({error}): {command}") from None


def _print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an error of the client, for example that no server is there, without the lines of the program."""
    if isinstance(error, BertServingError):
        print(f"{kind.__name__}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _print_error


def address(args: argparse.Namespace) -> dict[str, str | int]:
    """Returns the address of the server as arguments of ``BertClient``."""
    return {"ip": args.ip, "port": args.port, "port_out": args.port_out}


def read_pairs(name: str) -> tuple[list[str], list[str]]:
    """Returns the two columns of a file in ``example/data``."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    first, second = zip(*(line.split("\t") for line in lines), strict=True)
    return list(first), list(second)


@contextlib.contextmanager
def serving(*options: str) -> Iterator[BertClient]:
    """Yields a client of a server that runs during the ``with`` block, on free ports of this machine."""
    from bert_serving.server import BertServer
    from bert_serving.server.benchmark.managed_server import free_ports
    from bert_serving.server.helper import get_args_parser

    port, port_out = free_ports(2)
    where = ["-host", "127.0.0.1", "-port", str(port), "-port_out", str(port_out)]
    with BertServer(get_args_parser().parse_args([*where, *options])), BertClient(port=port, port_out=port_out) as bc:
        yield bc
