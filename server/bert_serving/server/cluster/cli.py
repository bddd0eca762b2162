"""The command ``bert-serving-ray``: machines on a Ray cluster compute for a server, as many as its queue needs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from bert_serving.client import BertServingError
from bert_serving.client.command_parser import CommandParser
from bert_serving.client.completion import add_completion
from bert_serving.client.interrupts import EXIT_INTERRUPTED
from bert_serving.client.ray_cluster import (
    ClusterError,
    check_address,
    connect,
    first_line,
    import_ray,
    require_reachable,
)

from ..cli.join import add_machine_options, machine_options, parse_machine_command, split_address, worker_counts
from ..config.command_line import RawFormatter
from ..config.models import parse_spec
from ..config.option import GIVEN, at_least, port_number
from ..errors import ServingError
from ..log import flush_log, get_logger
from ..supervisor.supervisor import EXIT_FORCED, EXIT_GAVE_UP, EXIT_OK, EXIT_START_FAILED
from ..version import __version__
from .front_monitor import FrontMonitor
from .machine_pool import MachinePool
from .scaling import Load, Scaling

#: Seconds between two looks at the machines.
_STEP_SECONDS = 0.2

_EPILOG = """\
examples:
  on the front:      bert-serving-start -model_dir /models/bert -join_port 5557 -join_host 10.0.0.1 -join_keys KEYS
  on the cluster:    bert-serving-ray 10.0.0.1:5557 -model_dir /models/bert -join_keys /keys -max 8
  without GPUs:      bert-serving-ray 10.0.0.1:5557 -model_dir /models/bert -num_gpus 0 -num_cpus 4 -max 8

Each machine is an actor that runs bert-serving-join. Ray chooses its node and starts it again if it is lost. Model
folder and keys must be at these paths on each node. The command reads the queue of the front each second, adds machines
if it is long, and drains machines that are not needed. On SIGINT or SIGTERM it drains all machines and ends; a second
signal ends them at once. docs/scale-out.md describes clusters, security and failures.
"""


def get_parser() -> argparse.ArgumentParser:
    """Builds the parser of ``bert-serving-ray``."""
    parser = CommandParser(
        prog="bert-serving-ray",
        description="Run workers for a server, the front, on the nodes of a Ray cluster.",
        epilog=_EPILOG,
        formatter_class=lambda prog: RawFormatter(prog, max_help_position=34, width=110),
    )
    machine = add_machine_options(parser)
    add = parser.add_argument_group("cluster").add_argument
    add(
        "-ray_address",
        "--ray-address",
        default="auto",
        metavar="ADDRESS",
        help="HOST:PORT of the head of the Ray "
        "cluster; auto is the cluster of this machine, or of RAY_ADDRESS (default: %(default)s)",
    )
    add(
        "-num_gpus",
        "--num-gpus",
        type=_amount,
        default=1.0,
        metavar="N",
        help="GPUs of each machine; with 0 it computes on the CPU (default: 1)",
    )
    add(
        "-num_cpus",
        "--num-cpus",
        type=_amount,
        default=0.0,
        metavar="N",
        help="CPUs that Ray reserves for each machine; from 1 also its -threads, unless given (default: 0)",
    )
    add("-min", "--min", type=at_least(0), default=1, metavar="N", help="least number of machines (default: 1)")
    add(
        "-max",
        "--max",
        type=at_least(1),
        metavar="N",
        help="largest number of machines; by default that of -min, at least 1",
    )
    add(
        "-queue_seconds",
        "--queue-seconds",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="add machines if the queued tokens are more than all workers compute in this time (default: 1)",
    )
    add(
        "-idle_seconds",
        "--idle-seconds",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="drain machines that were not needed for this time (default: 60)",
    )
    add = parser.add_argument_group("front").add_argument
    add(
        "-port",
        "-port_in",
        "--port",
        type=port_number,
        default=5555,
        metavar="PORT",
        help="-port of the front, to read its queue (default: %(default)s)",
    )
    add(
        "-port_out",
        "--port-out",
        type=port_number,
        default=5556,
        metavar="PORT",
        help="-port_out of the front (default: %(default)s)",
    )
    add(
        "-server_key",
        "--server-key",
        metavar="KEY",
        help="the front's public CURVE key if it has -auth_keys, or its file",
    )
    add("-secret_key", "--secret-key", metavar="KEY", help="a client's secret CURVE key, or its file")
    version = f"bert-serving-server {__version__}"
    machine.add_argument("-version", "--version", action="version", version=version, help="print it and exit")
    add_completion(machine)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code: 0, 2, 3 if no machine can start, 5 if the end was forced, or 130."""
    parser = get_parser()
    parsed = parse_machine_command(parser, argv)
    if parsed is None:
        return EXIT_OK
    args = parsed.args
    try:
        host, _ = split_address(args.front)
        check_address(args.ray_address)
        counts = worker_counts(args)
    except ValueError as error:
        parser.error(str(error))
    if "auto" in counts and args.num_cpus:
        parser.error(
            f"-num_worker auto takes all cores of a node, and -num_cpus {args.num_cpus:.15g} reserves some: set "
            "-num_worker to a number, or remove -num_cpus"
        )
    if args.max is None:
        args.max = max(1, args.min)
    if args.max < args.min:
        parser.error(f"-max {args.max} is less than -min {args.min}")
    log = get_logger("RAY", "debug" if args.verbose else args.log_level, args.log_format)
    for warning in parsed.warnings:
        log.warning(warning)
    try:
        return _run(args, host.strip("[]"), log)
    except KeyboardInterrupt:  # before machines were started
        return EXIT_INTERRUPTED
    except (ServingError, BertServingError) as error:
        log.error("%s", str(error).splitlines()[0])
        return EXIT_START_FAILED
    finally:
        flush_log()


class _Stops:
    """Counts the signals that ask for the end."""

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def _run(args: argparse.Namespace, host: str, log: logging.Logger) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ray = import_ray("bert-serving-server")
    options = {"ip": host, "port": args.port, "port_out": args.port_out}
    options |= {"server_key": args.server_key, "secret_key": args.secret_key}

    def on_front(error: BertServingError | None) -> None:
        if error is None:
            log.info("the front answers again")
        else:
            log.warning("the front does not answer, the number of machines stays: %s", str(error).splitlines()[0])

    monitor = FrontMonitor(options, on_front)
    _require_join_port(monitor.connect(), args, log)
    try:
        connect(ray, args.ray_address, shows_logs=True)
        require_reachable(ray, host)
        stops = _Stops()
        stops.install()  # after Ray, which has a handler of its own
        monitor.start()
        resources = {"num_gpus": args.num_gpus, "num_cpus": args.num_cpus}
        pool = MachinePool(ray, machine_arguments(args), resources, args.drain_timeout, log)
        scaling = Scaling(args.min, args.max, args.queue_seconds, args.idle_seconds)
        log.info("%d to %d machines compute for the front at %s", args.min, args.max, args.front)
        try:
            return _serve(monitor, pool, scaling, stops, log)
        except (ray.exceptions.RayError, ConnectionError) as error:
            log.error("the Ray cluster is lost: %s", first_line(error))
            return EXIT_GAVE_UP
        finally:
            with contextlib.suppress(ray.exceptions.RayError, ConnectionError):  # the cluster may be lost
                pool.kill()
    finally:
        monitor.close()
        ray.shutdown()


def _serve(monitor: FrontMonitor, pool: MachinePool, scaling: Scaling, stops: _Stops, log: logging.Logger) -> int:
    """Keeps the machines until a signal arrives, and drains them. Returns the exit code."""
    last, shown = None, (-1, -1)
    while not stops.count:
        report = monitor.last
        ready = frozenset[str]() if report is None else report.machines & pool.names
        if report is not None and report is not last:
            last = report
            before = scaling.wanted
            load = Load(*report[:-1], machines=len(ready))
            if scaling.observe(load) != before:
                log.info("%d machines in place of %d: %d tokens wait", scaling.wanted, before, report.waiting)
        pool.step(time.monotonic(), scaling.wanted, ready)
        if pool.failure is not None:
            log.error("%s", pool.failure)
            return EXIT_START_FAILED
        if shown != (len(ready), scaling.wanted):
            shown = len(ready), scaling.wanted
            log.info("%d of %d machines are ready", *shown)
        time.sleep(_STEP_SECONDS)
    log.info("all machines drain")
    pool.drain(time.monotonic())
    while len(pool) and stops.count < 2:
        pool.step(time.monotonic(), 0, ())
        time.sleep(_STEP_SECONDS)
    return EXIT_FORCED if len(pool) else EXIT_OK


def machine_arguments(args: argparse.Namespace) -> list[str]:
    """Returns the command line of ``bert-serving-join`` on each node."""
    arguments = [args.front]
    given = set(getattr(args, GIVEN, ()))
    for option in machine_options():
        if option.name not in given:
            continue
        value = getattr(args, option.name)
        if option.parse is None and value != option.switch_to:
            continue  # a variable or a file has set the switch to false
        if option.metavar == "DIR":
            value = _absolute(value)
        if option.repeated:
            arguments += [text for each in value for text in (option.flags[0], _absolute_model(each))]
            continue
        values = [] if option.parse is None else value if option.many else [value]
        arguments += [option.flags[0], *map(str, values)]
    if args.join_keys is not None:
        arguments += ["-join_keys", _absolute(args.join_keys)]
    if not args.num_gpus and "cpu" not in given:
        arguments.append("-cpu")
    if args.num_cpus >= 1 and "threads" not in given:
        arguments += ["-threads", str(max(1, int(args.num_cpus) // sum(map(int, worker_counts(args)))))]
    return arguments


def _absolute(path: str) -> str:
    """Returns a path that does not depend on the current folder, which differs on each node."""
    return path if path.startswith("~") else os.path.abspath(path)


def _absolute_model(text: str) -> str:
    """Returns a value of ``-model`` with the absolute path of its folder."""
    name, equals, rest = text.partition("=") if parse_spec(text) else ("", "", text)
    folder, comma, options = rest.partition(",") if equals else (rest, "", "")
    return f"{name}{equals}{_absolute(folder)}{comma}{options}"


def _require_join_port(status: dict[str, Any], args: argparse.Namespace, log: logging.Logger) -> None:
    port = status.get("join_port")
    if port is None:
        raise ClusterError(
            f"the server at port {args.port} lets no machines join; start it with -join_port PORT, and name that port"
        )
    if not args.front.endswith(f":{port}"):
        log.warning("the -join_port of the front is %d, and %s names another one", port, args.front)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < 1e6 or (value > 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, or a fraction below 1")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
