"""The commands: ``bert-serving-start`` and ``bert-serving-terminate``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from bert_serving.client._completion import add_completion

from ..config.options import at_least, port
from ..config.server_config import ServerConfig, get_args_parser, parse
from ..errors import ServingError
from ..supervisor.supervisor import EXIT_START_FAILED, BertServer
from .terminate import ServerNotFound, terminate

__all__ = ["get_args_parser", "get_shutdown_parser", "start", "stop"]


def start(argv: Sequence[str] | None = None) -> int:
    """Runs a server until it is told to stop. Returns the exit code."""
    config = parse(argv)
    _print_options(config, sys.argv[1:] if argv is None else list(argv))
    server = BertServer(config)

    def on_signal(number: int, frame: FrameType | None) -> None:
        server.stop()

    has_terminal = os.isatty(0)

    def on_hangup(number: int, frame: FrameType | None) -> None:
        if has_terminal and not os.isatty(0):
            server.stop()  # the terminal that this server ran in was closed
        else:
            server.reload()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, on_hangup)
    server.run()
    return EXIT_START_FAILED if server.exit_code is None else server.exit_code


def _print_options(config: ServerConfig, argv: list[str]) -> None:
    """The command and all options, as 1.10.0 printed them."""
    print("usage: bert-serving-start " + " ".join(argv), file=sys.stderr)
    print(f"{'ARG':>22}   VALUE", file=sys.stderr)
    print("_" * 50, file=sys.stderr)
    for name, value in config.public().items():
        shown = config.pooling_strategy.name if name == "pooling_strategy" else value
        print(f"{name:>22} = {shown}", file=sys.stderr)
    print(file=sys.stderr, flush=True)


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
        type=port,
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


if __name__ == "__main__":
    sys.exit(start())
