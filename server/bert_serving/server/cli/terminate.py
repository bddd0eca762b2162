"""The command ``bert-serving-terminate``: stops a running server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bert_serving.client.completion import add_completion

from ..config.options import at_least, port_number
from ..errors import ServingError
from ..supervisor.termination import ServerNotFound, terminate


def get_shutdown_parser() -> argparse.ArgumentParser:
    """The parser of ``bert-serving-terminate``; what it parses goes to ``BertServer.shutdown`` as well."""
    parser = argparse.ArgumentParser(
        prog="bert-serving-terminate",
        description="Stop a bert-serving server on this machine: it finishes what it has accepted, then ends.",
    )
    parser.add_argument("-ip", "--ip", default="localhost", help="address of the server (default: %(default)s)")
    parser.add_argument(
        "-port",
        "-port_in",
        "-port_data",
        "--port",
        type=port_number,
        required=True,
        help="its port for requests; to be named, so that none is stopped by mistake",
    )
    parser.add_argument(
        "-timeout", "--timeout", type=at_least(1), default=5000, help="milliseconds to wait (default: %(default)s)"
    )
    parser.add_argument(
        "-auth_keys", "--auth-keys", metavar="KEYS", help="folder of keys that the server was started with, if any"
    )
    add_completion(parser)
    return parser


def stop(argv: Sequence[str] | None = None) -> int:
    """Stops a running server, and waits until it is gone. Exit code 0: it ended; 1: nothing answers; 2: still there."""
    args = get_shutdown_parser().parse_args(argv)
    try:
        terminate(args.ip, args.port, args.timeout, args.auth_keys)
    except ServingError as error:
        print(f"bert-serving-terminate: {error}", file=sys.stderr)
        return 1 if isinstance(error, ServerNotFound) else 2
    print(f"the server at {args.ip}:{args.port} has ended")
    return 0
