"""Starts Ray clusters of several nodes on this machine, and ``bert-serving-ray`` on them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from joining import Front

import servers
from servers import CACHE, TINY, Server, wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

#: Without the first, Ray takes the outer address of this machine in place of the loopback.
ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
_MEMORY = 80 << 20


class RayCluster:
    """A head without CPUs, and nodes with one CPU each. What it starts finds the engines of the fault tests."""

    def __init__(self, nodes: int, env: dict[str, str]) -> None:
        self._before = dict(os.environ)
        os.environ.update(servers._environment(ENVIRONMENT | env))
        self._cluster = Cluster()
        self.nodes = [self.add_node(0)]
        self.nodes += [self.add_node() for _ in range(nodes)]
        self.address = str(self._cluster.address)

    def add_node(self, cpus: int = 1) -> Any:
        head = {} if self._cluster.head_node else {"include_dashboard": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._cluster.add_node(
                num_cpus=cpus, num_gpus=0, object_store_memory=_MEMORY, node_ip_address="127.0.0.1", **head
            )

    def kill_node(self, node: Any) -> None:
        """Ends the processes of a node with SIGKILL."""
        self._cluster.remove_node(node, allow_graceful=False)
        if node in self.nodes:
            self.nodes.remove(node)

    def kill_head(self) -> None:
        """Ends the process that knows the cluster with SIGKILL."""
        self._cluster.head_node.kill_gcs_server()

    def close(self) -> None:
        self._cluster.shutdown()
        os.environ.clear()
        os.environ.update(self._before)


@contextlib.contextmanager
def ray_cluster(nodes: int, **env: str) -> Iterator[RayCluster]:
    cluster = RayCluster(nodes, env)
    try:
        yield cluster
    finally:
        cluster.close()


class RayCommand(Server):
    """A ``bert-serving-ray`` process with machines on one CPU each."""

    def __init__(self, cluster: RayCluster, front: Front, *args: str | Path, model_dir: Path | None = TINY) -> None:
        self.log_path = Path(tempfile.mkstemp(prefix="bert-serving-log-", dir=CACHE)[1])
        self.front = front
        command = [sys.executable, "-m", "bert_serving.server.cluster.cli", f"127.0.0.1:{front.join_port}"]
        command += ["-port", str(front.port), "-port_out", str(front.port_out), "-ray_address", cluster.address]
        command += ["-num_gpus", "0", "-num_cpus", "1", *map(str, args)]
        command += [] if model_dir is None else ["-model_dir", str(model_dir)]
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                command, stderr=log, stdout=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.outlives_module = False
        servers.STARTED.append(self)

    def machines(self) -> list[psutil.Process]:
        """Returns the join processes for this front."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "bert_serving.server.cluster.machine_process" in words and str(self.front.join_port) in " ".join(
                    words
                ):
                    found.append(process)
        return found

    def wait_ready(self, seconds: float = 120.0, count: int = 1) -> RayCommand:
        """Waits until so many machines are ready."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"the command ended with {self.process.returncode}:\n{self.log}"
            lines = [line for line in self.log.splitlines() if "machines are ready" in line]
            return bool(lines) and f":{count} of {count} machines" in lines[-1]

        wait_until(is_ready, seconds, f"{count} machines")
        return self

    def wait_end(self, seconds: float = 120.0) -> int:
        return self.process.wait(seconds)

    def wait_gone(self, seconds: float = 60.0) -> None:
        """Waits until no join process and no worker of one is left."""
        wait_until(lambda: not self.machines(), seconds, "the end of all machines")
