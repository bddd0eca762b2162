"""Ports of test servers, and those that the benchmark and the examples choose."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from bert_serving.server.benchmark import managed_server
from servers import _LOCKS, MAX_LOCKS, free_ports

SEED = 5
TESTS = Path(__file__).resolve().parents[1]


def test_no_two_processes_choose_the_same_port() -> None:
    code = f"import random, servers; random.seed({SEED}); print(*servers.free_ports(5), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        theirs = [int(port) for port in other.stdout.readline().split()]
        state = random.getstate()
        random.seed(SEED)
        try:
            ours = free_ports(5)
        finally:
            random.setstate(state)
        other.communicate("\n")
    assert len(theirs) == len(ours) == 5
    assert not set(ours) & set(theirs)


def test_the_benchmark_chooses_no_port_of_a_test_server() -> None:
    chosen = managed_server.free_ports(50)
    assert len(set(chosen)) == 50
    assert max(chosen) < 20_000 <= min(free_ports(5))


def test_a_long_run_of_tests_holds_few_descriptors() -> None:
    ports = {port for _ in range(3) for port in free_ports(MAX_LOCKS)}
    assert len(ports) == 3 * MAX_LOCKS
    assert len(_LOCKS) <= MAX_LOCKS
