"""Reserves ports for one server from its start to its end.

The processes that bind the ports start later. Without the reservation, two servers that start at once both find the
ports free, and each takes one of them.
"""

from __future__ import annotations

import errno
import socket
import sys

from ..config.contradictions import named_ports
from ..config.server_config import ServerConfig
from ..errors import PortInUse
from . import fork

#: Values of ``-host`` that stand for all addresses.
ALL_ADDRESSES = ("*", "0.0.0.0", "::", "[::]")


class PortLock:
    """Holds a lock for each port of a server; the system releases it when the process ends.

    A lock is a Unix socket in Linux's abstract namespace, which leaves no file. Network namespaces separate these
    names, as they separate ports. On other systems nothing is locked.

    Raises:
        PortInUse: another server has reserved a port.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._sockets: list[socket.socket] = []
        if sys.platform != "linux":
            return
        # Sorted, so that of two servers with swapped ports one gets all.
        for name, (address, port) in sorted(named_ports(config).items(), key=lambda each: each[1][1]):
            host = "*" if address in ALL_ADDRESSES else address.strip("[]")
            with fork.fork_lock:
                lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                fork.close_on_fork(lock)
            self._sockets.append(lock)
            try:
                lock.bind(f"\0bert-serving:{host}:{port}".encode())
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    continue  # a sandbox forbids it; the ports themselves are exclusive
                self.close()
                raise PortInUse(
                    f"-{name} {port} cannot be used (another server has just started with it): stop that server, or "
                    f"choose another port"
                ) from None

    def close(self) -> None:
        """Releases the ports."""
        for lock in self._sockets:
            lock.close()
