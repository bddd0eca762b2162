"""``-num_worker auto`` of a real server: each worker process is bound to its cores, also one that is started again.

The server has two models, which share the cores.
"""

from __future__ import annotations

import os
import sys

import pytest

from bert_serving.client import BertClient
from bert_serving.server.supervisor.core_shares import divide_cores
from bert_serving.server.supervisor.core_split import split_cores
from bert_serving.server.supervisor.cpu_topology import read_topology
from servers import TINY, serving, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")

#: Runs its arguments on the CPUs that its first argument lists.
RESTRICTED = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execv(sys.argv[2], sys.argv[2:])"
)


def test_workers_are_bound_to_their_cores() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]  # as a container with a set of CPUs
    parts = divide_cores(read_topology(cpus=cpus), [None, None])
    expected = {
        f"worker-{name}{index}": set(share.cpus or cpus)
        for name, part in zip(("", "b-"), parts, strict=True)
        for index, share in enumerate(split_cores(part, threads=1))
    }
    prefix = (sys.executable, "-c", RESTRICTED, ",".join(map(str, cpus)))
    auto = ("-num_worker", "auto", "-threads", "1", "-model", f"b={TINY},num_worker=auto,pooling_layer=-1")
    with serving(*auto, "-engine", "zeros", prefix=prefix) as server:

        def affinities() -> dict[str, set[int]]:
            return {name: set(server.child(name).cpu_affinity()) for name in expected}

        assert affinities() == expected
        assert set(server.child("ventilator").cpu_affinity()) == set(cpus)
        assert f"-num_worker auto: cores of each model, of {len(cpus)}: tiny 1, b 1\n" in server.log
        old = server.child("worker-0")
        old.kill()
        with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
            wait_until(lambda: client.server_status["restarts"]["worker"] == 1)
            wait_until(lambda: client.server_status["state"] == "ready")
            assert client.encode(["hello world"]).shape == (1, 32)
            assert len(client.server_status["workers"]) == len(expected)
        assert server.child("worker-0").pid != old.pid
        assert affinities() == expected
