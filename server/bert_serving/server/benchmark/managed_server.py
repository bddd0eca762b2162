"""Runs the server under test on free ports, and reuse it while its configuration stays the same."""

from __future__ import annotations

import random
import socket
from types import TracebackType
from typing import Any

from bert_serving.client import BertClient

from ..config.server_config import ServerConfig
from ..errors import StartError
from ..security.curve import read_server_keys
from ..supervisor.supervisor import BertServer

HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Returns ports that are free now, below the range that the system uses for outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class ServerManager:
    """Runs at most one server at a time.

    Args:
        wait_seconds: maximum time until a server is ready.
    """

    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._server: BertServer | None = None
        self._config: ServerConfig | None = None

    def serve(self, config: ServerConfig) -> None:
        """Runs a server with this configuration and no other server.

        Raises:
            StartError: the server failed to start, or was not ready in time.
        """
        if self._config == config and self._server is not None and self._server.state == "ready":
            return
        self.close()
        port, port_out = free_ports(2)
        server = BertServer(config.with_(host=HOST, port=port, port_out=port_out, http_port=None))
        self._server, self._config = server, config
        server.start()
        if not server.is_ready.wait(self._wait_seconds):
            self.close(abort=True)
            raise StartError(f"the server was not ready after {self._wait_seconds:.15g} s (-wait_till_ready)")
        if server.failure:
            self.close()
            raise StartError(server.failure)

    @property
    def connect(self) -> dict[str, Any]:
        """Arguments of a ``BertClient`` for the server, without the warning about truncated texts."""
        assert self._server is not None
        config = self._server.config
        found = {"ip": HOST, "port": config.port, "port_out": config.port_out, "check_length": False}
        if config.auth_keys:
            public, secret = read_server_keys(config.auth_keys)
            found |= {"server_key": public.decode(), "secret_key": secret.decode()}
        return found

    def server_config(self) -> dict[str, Any]:
        """Returns the configuration that the server reports."""
        with BertClient(**self.connect) as client:
            return client.server_config

    def close(self, abort: bool = False) -> None:
        """Stops the server; with ``abort``, without finishing its requests."""
        server, self._server, self._config = self._server, None, None
        if server is None:
            return
        if abort:
            server.stop()
        server.close()

    def __enter__(self) -> ServerManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(abort=kind is not None)
