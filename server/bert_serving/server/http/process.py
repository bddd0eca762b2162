"""Runs the HTTP process: it connects to the service, listens, and drains its requests when the supervisor asks.

Flask and waitress are optional dependencies. `run` imports the modules that need them, so that a missing library
becomes an error with the command that installs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from bert_serving.client import BertClient

from ..errors import PortInUse, StartError
from ..ipc.commands import DRAIN, DRAINED, READY, STOP
from ..ipc.process_context import ProcessContext
from ..tokenization.factory import make_tokenizer
from .bearer_token import read_token
from .concurrency_limit import ConcurrencyLimiter
from .encoding_service import EncodingService
from .health import HealthChecker
from .token_ids import TokenIds

if TYPE_CHECKING:
    from .server import HttpServer

#: Time (ms) that a call waits for an unreachable service: longer than a restart takes.
CONNECT_TIMEOUT = 10_000
#: Time (ms) that a status request may take.
STATUS_TIMEOUT = 3_000
#: Maximum time (s) in the queue.
QUEUE_TIMEOUT = 5.0
#: Minimum length of the queue; with more slots than that, the queue is as long as there are slots. Each queued request
#: holds a thread, and a kept-alive connection has one request at a time, so this many connections are never rejected.
MIN_QUEUE_LENGTH = 128
#: Threads beyond those of running and queued requests: for health checks, metrics and rejections.
SPARE_THREADS = 8
#: Time (s) on shutdown for running requests to finish, and then for their responses to be sent.
FINISH_SECONDS, FLUSH_SECONDS = 2.0, 3.0


def run(process: ProcessContext) -> None:
    """Serves HTTP until the supervisor sends STOP.

    Raises:
        StartError: a library is not installed, or the port is in use.
        ConfigError: the bearer token cannot be read.
        BertServingError: the service does not reply.
    """
    try:
        from .app import make_app
        from .metrics import Metrics
        from .server import HttpServer, redirect_log
    except ModuleNotFoundError as error:
        raise StartError(
            f"-http_port needs the library {error.name!r}; install it with: pip install 'bert-serving-server[http]'"
        ) from None
    config = process.config
    control = process.connect_control()
    process.start_heartbeat()
    redirect_log(process.log)
    token = read_token(config)
    service = make_service(process)
    metrics = Metrics(service.health, service.limiter)
    app = make_app(service, metrics, token)
    host, port = "0.0.0.0" if config.host == "*" else config.host, config.http_port
    assert port is not None
    threads = service.limiter.max_running + service.limiter.max_queued + SPARE_THREADS
    try:
        server = HttpServer(app, host, port, threads, config.http_max_body, metrics.count_rejected)
    except OSError as error:
        raise PortInUse(f"-http_port {port} cannot be used ({error.strerror}): choose another port") from None
    server.start()
    process.log.info("HTTP at http://%s:%d, described at /docs", host, port)
    control.send_multipart([READY, b"{}"])
    _serve(process, control, service, server)


def _serve(process: ProcessContext, control: zmq.Socket[bytes], service: EncodingService, server: HttpServer) -> None:
    """Handles the supervisor's commands until STOP, then waits for running requests and closes the client."""
    limiter, is_drained = service.limiter, False
    while True:
        process.mark_progress()
        if limiter.closed and not is_drained and not limiter.running and server.is_idle:
            is_drained = True
            control.send(DRAINED)
        if not server.is_alive:
            raise StartError("the thread of the HTTP server ended unexpectedly; see the log above")
        if control.poll(50 if limiter.closed else 500):
            command = control.recv_multipart()[0]
            if command == DRAIN:
                limiter.close()
            elif command == STOP:
                break

    limiter.close()
    _wait_for(lambda: not limiter.running, FINISH_SECONDS)
    service.client.close()  # calls that are still blocked raise ClientStateError
    _wait_for(lambda: not limiter.running and server.is_idle, FLUSH_SECONDS)


def make_service(process: ProcessContext) -> EncodingService:
    """Connects to the service, and loads the tokenizer and the vocabulary.

    Raises:
        BertServingError: the service does not reply.
    """
    config = process.config
    model = process.model

    # A wildcard address includes the loopback address.
    host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)

    def connect(timeout: float) -> BertClient:
        return BertClient(
            host,
            config.port,
            config.port_out,
            check_length=False,  # replies name the truncated texts
            timeout=timeout,
            connect_timeout=CONNECT_TIMEOUT,
            **process.options.get("keys", {}),
        )

    tokenizer = make_tokenizer(config, model, process.options["tokenizer"])
    return EncodingService(
        config=config,
        model=model,
        client=connect(config.http_timeout * 1000),
        tokenizer=tokenizer,
        token_ids=TokenIds(tokenizer.ids, tokenizer.frame, config.no_special_token, config.http_token_ids),
        limiter=ConcurrencyLimiter(
            config.http_max_connect, max(MIN_QUEUE_LENGTH, config.http_max_connect), QUEUE_TIMEOUT
        ),
        health=HealthChecker(connect(STATUS_TIMEOUT)),
        log=process.log,
    )


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
