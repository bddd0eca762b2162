"""The command ``bert-serving-terminate``: stops a running server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bert_serving.client.command_parser import CommandParser
from bert_serving.client.completion import add_completion
from bert_serving.client.flag_sources import add_sources, command_args

from ..config.option import at_least, port_number
from ..errors import ServingError
from ..supervisor.termination import ServerNotFound, terminate


def get_shutdown_parser() -> argparse.ArgumentParser:
    """Builds the parser of ``bert-serving-terminate``; ``BertServer.shutdown`` accepts its namespace too."""
    parser = CommandParser(
        prog="bert-serving-terminate",
        description="Stop a bert-serving server on this machine. The server drains accepted requests, then exits.",
    )
    parser.add_argument("-ip", "--ip", default="localhost", help="address of the server (default: %(default)s)")
    parser.add_argument(
        "-port",
        "-port_in",
        "-port_data",
        "--port",
        type=port_number,
        required=True,
        help="request port of the server; required, so that no server is stopped by mistake",
    )
    parser.add_argument(
        "-timeout",
        "--timeout",
        type=at_least(1),
        default=5000,
        help="time to wait for the server to exit, in milliseconds (default: %(default)s)",
    )
    parser.add_argument(
        "-auth_keys", "--auth-keys", metavar="KEYS", help="-auth_keys folder of the server, if it uses CURVE"
    )
    add_sources(parser)
    add_completion(parser)
    return parser


def stop(argv: Sequence[str] | None = None) -> int:
    """Stops a running server and waits for its exit.

    Returns the exit code: 0 if the server exited, 1 if no server replies, 2 if the server still runs.
    """
    args = command_args(get_shutdown_parser(), argv)
    try:
        terminate(args.ip, args.port, args.timeout, args.auth_keys)
    except ServingError as error:
        print(f"bert-serving-terminate: {error}", file=sys.stderr)
        return 1 if isinstance(error, ServerNotFound) else 2
    print(f"the server at {args.ip}:{args.port} has stopped")
    return 0
