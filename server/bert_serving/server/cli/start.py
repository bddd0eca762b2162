"""The command ``bert-serving-start``: runs a server until it receives SIGINT, SIGTERM or a terminate command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ..config.command_line import get_args_parser, parse
from ..config.options import ServerConfig
from ..log import get_logger, write_text
from ..supervisor.supervisor import EXIT_START_FAILED, BertServer
from .check import check
from .print_config import print_config

__all__ = ["get_args_parser", "start"]


def start(argv: Sequence[str] | None = None) -> int:
    """Runs a server until it stops. Returns the exit code.

    SIGINT and SIGTERM stop the server. SIGHUP restarts the workers, unless the terminal was closed.
    """
    open_standard_streams()
    config, parsed, parser = parse(argv)
    log = get_logger("SUPERVISOR", config.verbose)
    for warning in parsed.warnings:
        log.warning(warning)
    if parsed.args.print_config:
        return print_config(config, parsed, parser)
    if parsed.args.check:
        return check(config)
    _print_options(config, sys.argv[1:] if argv is None else list(argv))
    server = BertServer(config)

    def on_signal(number: int, frame: FrameType | None) -> None:
        server.stop()

    has_terminal = os.isatty(0)

    def on_hangup(number: int, frame: FrameType | None) -> None:
        if has_terminal and not os.isatty(0):
            server.stop()  # the terminal was closed
        else:
            server.reload()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, on_hangup)
    server.run()
    return EXIT_START_FAILED if server.exit_code is None else server.exit_code


def open_standard_streams() -> None:
    """Opens closed standard streams (``2>&-``), so that no socket gets their numbers and receives output."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _print_options(config: ServerConfig, argv: list[str]) -> None:
    """Prints the command line and all options in the format of 1.10.0."""
    lines = ["usage: bert-serving-start " + " ".join(argv), f"{'ARG':>22}   VALUE", "_" * 50]
    for name, value in config.public().items():
        text = config.pooling_strategy.name if name == "pooling_strategy" else value
        lines.append(f"{name:>22} = {text}")
    write_text("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    sys.exit(start())
