"""Where the commands of the server begin."""

from __future__ import annotations

from bert_serving.client.interrupts import exit_on_interrupt, run_command

exit_on_interrupt()  # before the imports of the command

_SERVER = "bert_serving.server"


def start() -> int:
    return run_command(f"{_SERVER}.cli.start", "start")


def join() -> int:
    return run_command(f"{_SERVER}.cli.join", "join")


def terminate() -> int:
    return run_command(f"{_SERVER}.cli.terminate", "stop")


def keygen() -> int:
    return run_command(f"{_SERVER}.cli.keygen", "keygen")


def drift() -> int:
    return run_command(f"{_SERVER}.cli.drift", "main", is_interruptible=True)


def calibrate() -> int:
    return run_command(f"{_SERVER}.cli.calibrate", "main", is_interruptible=True)


def benchmark() -> int:
    return run_command(f"{_SERVER}.benchmark.cli", "main", is_interruptible=True)


def ray() -> int:
    return run_command(f"{_SERVER}.cluster.cli", "main", is_interruptible=True)
