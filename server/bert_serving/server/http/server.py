"""Runs uvicorn in a thread, on IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any

from uvicorn import Config, Server

from ..ipc.sockets import listen
from .acceptor import Acceptor
from .connections import Connection
from .gateway import Gateway

#: Connections that wait to be accepted; the operating system may allow fewer.
BACKLOG = 4096
#: Maximum time (s) that another thread waits for a coroutine of the event loop.
RUN_SECONDS = 10.0
#: Address space (bytes) of the stack of a thread: enough for the deepest JSON that Python's decoder accepts.
STACK_BYTES = 6 * 2**20


class HttpServer:
    """Runs the HTTP server in a thread.

    Args:
        gateway: the ASGI application.
        keep_alive: time (s) that a connection without a request stays open.

    Raises:
        OSError: the server cannot bind to the address.
    """

    def __init__(self, gateway: Gateway, host: str, port: int, keep_alive: float) -> None:
        self._gateway, self._loop = gateway, asyncio.new_event_loop()
        self._listener = listen(host, port, BACKLOG)
        self._server = Server(
            Config(
                gateway,
                http=Connection,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("server", "bert-serving")],
                timeout_keep_alive=int(keep_alive) + 1,  # `Connections` closes idle connections
            )
        )
        threading.stack_size(STACK_BYTES)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Calls a function in the thread of the event loop."""
        self._loop.call_soon_threadsafe(function)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine in the event loop, and waits for its end, for `RUN_SECONDS` at most."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        wait([future], RUN_SECONDS)
        if future.done():
            future.result()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether every response is completely sent."""
        return self._gateway.num_active == 0

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        expiry = asyncio.create_task(self._gateway.connections.close_expired())
        serving = asyncio.create_task(self._server.serve([]))  # `Acceptor` listens
        while not (self._server.started or serving.done()):
            await asyncio.sleep(0.01)
        acceptor = Acceptor(self._listener, self._gateway.connections, self._make_connection)
        done, _ = await asyncio.wait([expiry, serving], return_when=asyncio.FIRST_COMPLETED)
        acceptor.close()
        for task in done:
            task.result()

    def _make_connection(self, is_admitted: bool) -> Connection:
        server = self._server
        return Connection(server.config, server.server_state, server.lifespan.state, self._loop, is_admitted)


def redirect_log(log: logging.Logger) -> None:
    """Sends the messages of uvicorn and asyncio to the handlers of ``log``. Malformed requests are no errors."""
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = list(log.handlers), False
        logger.setLevel(logging.ERROR)
