"""The command ``bert-serving-start``: runs a server until it receives SIGINT, SIGTERM or a terminate command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ..config.command_line import get_args_parser, parse
from ..config.server_config import ServerConfig
from ..ipc.start_steps import StartSteps, process_start
from ..log import get_logger, printable, write_text
from ..supervisor.supervisor import EXIT_START_FAILED, BertServer

__all__ = ["get_args_parser", "start"]


def start(argv: Sequence[str] | None = None) -> int:
    """Runs a server until it stops. Returns the exit code.

    SIGINT and SIGTERM stop the server. SIGHUP restarts the workers, unless the terminal was closed.
    """
    open_standard_streams()
    config, parsed, parser = parse(argv)
    log = get_logger("SUPERVISOR", *config.log_settings)
    is_start = not (parsed.args.print_config or parsed.args.check)
    if is_start:
        _print_options(config, sys.argv[1:] if argv is None else list(argv))
    for warning in parsed.warnings:
        log.warning(warning)
    if not is_start:
        from .check import check
        from .print_config import print_config

        return print_config(config, parsed, parser) if parsed.args.print_config else check(config)
    steps = StartSteps(process_start())
    steps.done("interpreter and imports")
    server = BertServer(config, steps)

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
    """Prints the command line and the options that differ from their default; all with ``-log_level debug``.

    The text has the shape of 1.10.0.
    """
    level, log_format = config.log_settings
    if level == "quiet":
        return
    options = {name: value for name, value in config.public().items() if level == "debug" or name in config.changed}
    if "pooling_strategy" in options:
        options["pooling_strategy"] = config.pooling_strategy.name
    if config.model:
        options["model"] = ", ".join(map(repr, config.model))
    usage = "usage: bert-serving-start " + " ".join(argv)
    if log_format == "json":
        log = get_logger("SUPERVISOR", level, log_format)
        log.info(usage)
        log.info("options: %s", ", ".join(f"{name} = {value}" for name, value in options.items()))
        return
    lines = [usage, f"{'ARG':>22}   VALUE", "_" * 50, *(f"{name:>22} = {value}" for name, value in options.items())]
    write_text("\n".join(map(printable, lines)) + "\n\n")


if __name__ == "__main__":
    sys.exit(start())
