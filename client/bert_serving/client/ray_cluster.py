"""Connects to a Ray cluster, for ``bert-serving-encode -ray_address`` and ``bert-serving-ray``.

Ray is imported here only, when a command needs it.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import Any

from .errors import BertServingError

#: The first Ray with token authentication.
_MIN_RAY = (2, 52)
_WATCH_SECONDS, _PROBE_SECONDS = 1.0, 5.0


class ClusterError(BertServingError):
    """The Ray cluster cannot be used."""


def check_address(address: str) -> None:
    """Checks a value of ``-ray_address``.

    Raises:
        ValueError: it is neither ``auto`` nor ``HOST:PORT``.
    """
    port = address.rpartition(":")[2]
    if address != "auto" and ("://" in address or ":" not in address or not port.isdigit()):
        raise ValueError(
            f"-ray_address {address} is neither auto nor HOST:PORT of the cluster's head, such as 10.0.0.1:6379; run "
            "this command on a node of the cluster"
        )


def import_ray(distribution: str) -> Any:
    """Imports Ray, with its telemetry off.

    Args:
        distribution: the package whose extra ``ray`` installs it, for the error.

    Raises:
        ClusterError: it is not installed, or too old.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of several machines are alike, and all count
    remedy = f'pip install "{distribution}[ray]"'
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"Ray is not installed ({error}): {remedy}") from None
    found = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if found < _MIN_RAY:
        raise ClusterError(f"Ray {ray.__version__} is too old; {'.'.join(map(str, _MIN_RAY))} is the first: {remedy}")
    return ray


def connect(ray: Any, address: str, shows_logs: bool) -> None:
    """Connects this process to a cluster.

    Args:
        address: ``auto``, or ``HOST:PORT`` of the cluster's head.
        shows_logs: stderr shows what actors write.

    Raises:
        ClusterError: there is no cluster, or it does not accept this process.
    """
    try:
        _probe(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
        ray.init(address=address, namespace="bert-serving", logging_level="error", log_to_driver=shows_logs)
    except Exception as error:
        python = ".".join(map(str, sys.version_info[:2]))
        raise ClusterError(
            f"no Ray cluster at -ray_address {address}: {first_line(error).rstrip('.')}. This command needs a node of "
            f"the cluster (ray start), Python {python} and Ray {ray.__version__} on all nodes, and the token of "
            "the cluster if it uses RAY_AUTH_MODE=token"
        ) from None


def require_reachable(ray: Any, host: str) -> None:
    """Checks that the address of a server is not the loopback of this machine while other machines need it.

    Raises:
        ClusterError: it is.
    """
    is_loopback = host in ("localhost", "::1") or host.startswith("127.")
    nodes = {str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]}
    if is_loopback and len(nodes) > 1:
        raise ClusterError(
            f"the server's address {host} is another machine on each node ({', '.join(sorted(nodes)[:3])}, ...); "
            "name an address that all nodes reach"
        )


def _probe(address: str) -> None:
    """Checks that the head accepts connections, because Ray tries for minutes.

    Raises:
        OSError: it does not.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS).close()


def first_line(error: BaseException) -> str:
    """Returns the first line of an error of Ray, whose later lines have a traceback."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def last_line(error: BaseException) -> str:
    """Returns the last line of an error of Ray, which has the cause of a failed creation."""
    return str(error).strip().rpartition("\n")[2].strip() or type(error).__name__


def exit_with_node() -> None:
    """Ends this process, an actor, when the process of its node has ended.

    Ray leaves actors whose node ended because the head of the cluster was lost.
    """
    node = os.getppid()

    def watch() -> None:
        while os.getppid() == node:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-node", daemon=True).start()
