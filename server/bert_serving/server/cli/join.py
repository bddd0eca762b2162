"""The command ``bert-serving-join``: computes for a server on another machine until SIGINT, SIGTERM or SIGHUP."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType

from bert_serving.client.command_parser import CommandParser, print_output
from bert_serving.client.completion import add_completion, suggest
from bert_serving.client.flag_sources import (
    ParsedCommand,
    add_sources,
    choose_log_level,
    describe_flags,
    parse_command,
    with_sources,
)

from ..config.command_line import RawFormatter
from ..config.machine_options import OWN_OPTIONS
from ..config.models import ABOUT_MODELS, OVERRIDABLE, parse_spec
from ..config.option import GIVEN, Option, count_or_auto, port_number
from ..config.options import OPTIONS
from ..config.server_config import ServerConfig
from ..errors import ConfigError
from ..security.machine_keys import read_machine_keys
from ..supervisor.machine import MachineSupervisor
from ..supervisor.supervisor import EXIT_OK, EXIT_START_FAILED
from ..version import __version__
from .start import open_standard_streams

#: Options of a machine, and those that may differ between its models.
_OPTIONS = (*OWN_OPTIONS, "model")
_OF_MODELS = {*ABOUT_MODELS, *OVERRIDABLE}
_MODEL_HELP = (
    "NAME=FOLDER[,option=value,...]: the folder of a model of the front with this name; may be repeated. -model_dir is "
    "the folder of its first model"
)
_EPILOG = """\
examples:
  on the front:          bert-serving-start -model_dir M -join_port 5557 -join_host 10.0.0.1 -join_keys KEYS
  on another machine:    bert-serving-join 10.0.0.1:5557 -model_dir M -join_keys MY_KEYS

The front tells the options that shape vectors, such as -pooling_strategy and -dtype. The folder of the model must be on
each machine; the front compares digests and refuses another model. docs/scale-out.md describes keys and failures.
"""


def get_parser() -> argparse.ArgumentParser:
    """Builds the parser of ``bert-serving-join``."""
    parser = CommandParser(
        prog="bert-serving-join",
        description="Add the workers of this machine to a server on another one, the front.",
        epilog=_EPILOG,
        formatter_class=lambda prog: RawFormatter(prog, max_help_position=34, width=110),
    )
    group = add_machine_options(parser)
    version = f"bert-serving-server {__version__}"
    group.add_argument("-version", "--version", action="version", version=version, help="print it and exit")
    add_completion(group)
    return parser


def add_machine_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the address of the front and the options of a machine to a parser. Returns the group of the options."""
    parser.add_argument("front", metavar="HOST:PORT", help="address of the front, and its -join_port")
    group = parser.add_argument_group("machine")
    for each in machine_options():
        suggest(each.add_to(group), each.completions)
    group.add_argument(
        "-join_keys",
        "--join-keys",
        metavar="KEYS",
        help="folder with the front's server.key and the key NAME.key_secret of this machine, from bert-serving-keygen",
    )
    add_sources(group)
    return group


def machine_options() -> Iterator[Option]:
    """Yields the options of a machine that ``bert-serving-start`` has too."""
    help = (
        "number of worker processes; by default one for each GPU, or one on the CPU. auto: about one for each 4 cores "
        "of the CPU, bound to them"
    )
    for name in OWN_OPTIONS:
        option = OPTIONS[name]
        is_own = name == "num_worker"
        yield replace(option, default=None, parse=count_or_auto(1), help=help) if is_own else option
        if name == "model_dir":
            yield replace(OPTIONS["model"], help=_MODEL_HELP)


def join(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code, as ``bert-serving-start`` does."""
    parser = get_parser()
    parsed = parse_machine_command(parser, argv)
    if parsed is None:
        return EXIT_OK
    try:
        machine = make_machine(parsed.args)
    except (ConfigError, ValueError) as error:
        parser.error(with_sources(str(error), parsed.sources))
    for warning in parsed.warnings:
        machine.log.warning(warning)

    def on_signal(number: int, frame: FrameType | None) -> None:
        machine.stop()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), on_signal)
    machine.run()
    return EXIT_START_FAILED if machine.exit_code is None else machine.exit_code


def parse_machine_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> ParsedCommand | None:
    """Returns the arguments of a command that runs machines, and opens the standard streams.

    With ``-print_config``, prints the flags instead, and returns None.
    """
    parsed = parse_command(parser, argv, is_service=True)
    choose_log_level(parsed.args)
    if parsed.args.print_config:
        print_output(describe_flags(parser, parsed))
        return None
    open_standard_streams()
    return parsed


def make_machine(args: argparse.Namespace) -> MachineSupervisor:
    """Returns the machine that the arguments describe. It is not started.

    Raises:
        ConfigError, ValueError: an argument is not valid, or the keys cannot be read.
    """
    host, port = split_address(args.front)
    own = {name: getattr(args, name) for name in _OPTIONS}
    own["num_worker"] = own["num_worker"] or 1
    for spec in filter(None, map(parse_spec, args.model)):
        if of_front := sorted(spec.options.keys() - {*OWN_OPTIONS}):
            raise ConfigError(
                f"-model {spec.name}: the front tells its machines {', '.join(of_front)}: omit it here; a machine sets "
                f"{', '.join(name for name in OWN_OPTIONS if name in _OF_MODELS)}"
            )
        if spec.options.get("num_worker") == 0:
            raise ConfigError(
                f"-model {spec.name}: num_worker=0 leaves this machine without a worker for it: set 1 or more, or omit "
                "this -model"
            )
    given = [name for name in getattr(args, GIVEN, ()) if name in _OPTIONS]
    config = ServerConfig(**own, given=frozenset(given))
    keys = None if args.join_keys is None else read_machine_keys(os.path.expanduser(args.join_keys))
    return MachineSupervisor(host, port, config, keys)


def worker_counts(args: argparse.Namespace) -> list[int | str]:
    """Returns the number of workers of each model of a machine, or auto.

    Raises:
        ConfigError: a value of ``-model`` is not valid.
    """
    found = list(filter(None, map(parse_spec, args.model)))
    counts = [spec.options.get("num_worker", 1) for spec in found]
    own = args.num_worker or 1
    if args.model_dir is not None or len(found) < len(args.model) or not found:
        return [own, *counts]
    return [found[0].options.get("num_worker", own), *counts[1:]]  # the first one is in place of -model_dir


def split_address(front: str) -> tuple[str, int]:
    """Returns host and port of ``HOST:PORT``; an IPv6 address has brackets.

    Raises:
        ValueError: there is no host or no port.
    """
    host, separator, port = front.rpartition(":")
    is_ipv6 = re.fullmatch(r"\[[0-9A-Fa-f:.]+(%\w+)?\]", host) is not None
    if not separator or not (is_ipv6 or re.fullmatch(r"[\w.-]+", host)):
        raise ValueError(f"{front!r} is not HOST:PORT, such as 10.0.0.1:5557 or [fd00::1]:5557")
    return host, port_number(port)


if __name__ == "__main__":
    sys.exit(join())
