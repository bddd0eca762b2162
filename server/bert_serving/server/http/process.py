"""Runs the HTTP process: it connects to the service, listens, and drains its requests when the supervisor asks.

Flask and uvicorn are optional dependencies. `run` imports the modules that need them, so that a missing library
becomes an error with the command that installs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from bert_serving.client import AsyncBertClient, BertClient

from ..config.models import public_name
from ..errors import ConfigError, PortInUse, StartError
from ..ipc.commands import DRAIN, DRAINED, READY, SHARES, STOP
from ..ipc.descriptors import descriptor_limit
from ..ipc.full_collections import FullCollections
from ..ipc.process_context import ProcessContext
from ..ipc.thread_switches import switch_threads_often
from ..tokenization.factory import make_tokenizer
from .bearer_token import read_token
from .concurrency_limit import ConcurrencyLimiter
from .encoding_service import EncodingService
from .health import HealthChecker
from .http_access import HttpAccess
from .memory_limit import MemoryLimiter, memory_limit
from .paths import RERANK_PATHS
from .token_ids import TokenIds

if TYPE_CHECKING:
    from .batch_jobs.store import Store
    from .server import HttpServer

#: Time (ms) that a call waits for an unreachable service: longer than a restart takes.
CONNECT_TIMEOUT = 10_000
#: Time (ms) that a status request may take.
STATUS_TIMEOUT = 3_000
#: Maximum time (s) in the queue.
QUEUE_TIMEOUT = 5.0
#: Minimum length of the queue; with more slots than that, the queue is as long as there are slots. A kept-alive
#: connection has one request at a time, so this many connections are never rejected.
MIN_QUEUE_LENGTH = 128
#: File descriptors that are not used for HTTP connections: sockets of the client, files, new connections.
RESERVED_DESCRIPTORS = 128
#: Time (s) on shutdown for running requests to finish, and then for their responses to be sent.
FINISH_SECONDS, FLUSH_SECONDS = 2.0, 3.0
_M_ARENA_MAX = -8  # malloc.h


def run(process: ProcessContext) -> None:
    """Serves HTTP until the supervisor sends STOP.

    Raises:
        StartError: a library is not installed, or the port is in use.
        ConfigError: the bearer token cannot be read.
        BertServingError: the service does not reply.
    """
    try:
        from .app import make_app
        from .batch_jobs.upload import Uploads
        from .connections import Connections
        from .direct_response import DirectResponses
        from .gateway import Gateway
        from .metrics import Metrics
        from .request_record import RequestRecorder
        from .server import HttpServer, redirect_log
    except ModuleNotFoundError as error:
        raise StartError(
            f"-http_port needs the library {error.name!r}; install it with: pip install 'bert-serving-server[http]'"
        ) from None
    switch_threads_often()
    _limit_arenas()
    config = process.config
    control = process.connect_control()
    process.start_heartbeat()
    redirect_log(process.log)
    access = HttpAccess(None if config.http_keys else read_token(config), process.options.get("shares"))
    service = make_service(process, config.http_timeout)
    metrics = Metrics(service.health, service.limiter)
    host, port = config.host, config.http_port
    assert port is not None
    connections = Connections(
        _max_connections(process),
        config.http_keep_alive,
        config.http_read_timeout,
        metrics.count_rejected,
        service.vector_space,
    )
    recorder = RequestRecorder(metrics, process.log)
    store = _job_store(process)
    app = make_app(service, metrics, recorder, access, store)
    gateway = Gateway(
        app,
        DirectResponses(app, recorder, service.vector_space),
        service,
        connections,
        MemoryLimiter(
            memory_limit(config.http_max_body),
            config.http_max_body,
            max(each.row_bytes for each in service.models),
            RERANK_PATHS if any(each.config.task == "rerank" for each in service.models) else frozenset(),
            min(each.max_length for each in service.models),
            max(each.pooled_row_bytes for each in service.models),
            [each.output_sizes for each in service.models if each.compared],
            has_names=access.has_keys,
        ),
        config.http_max_body,
        access,
        None if store is None else Uploads(store, config.http_jobs_age),
    )
    try:
        server = HttpServer(gateway, host, port, config.http_keep_alive)
    except OSError as error:
        raise PortInUse(f"-http_port {port} cannot be used ({error.strerror}): choose another port") from None
    server.start()
    process.log.info("HTTP at http://%s:%d, described at /docs", host, port)
    process.log_steps("sockets and files")
    control.send_multipart([READY, b"{}"])
    _serve(process, control, service, server, access)


def _serve(
    process: ProcessContext,
    control: zmq.Socket[bytes],
    service: EncodingService,
    server: HttpServer,
    access: HttpAccess,
) -> None:
    """Handles the supervisor's commands until STOP, then waits for running requests and closes the client."""
    limiter, is_drained = service.limiter, False
    full_collections = FullCollections()
    while True:
        process.mark_progress()
        full_collections.run_if_due()
        if limiter.closed and not is_drained and not limiter.running and server.is_idle:
            is_drained = True
            control.send(DRAINED)
        if not server.is_alive:
            raise StartError("the thread of the HTTP server ended unexpectedly; see the log above")
        if control.poll(50 if limiter.closed else 500):
            command, *arguments = control.recv_multipart()
            if command == DRAIN:
                server.call(limiter.close)
            elif command == SHARES:
                access.update(json.loads(arguments[0]))
            elif command == STOP:
                break

    server.call(limiter.close)
    _wait_for(lambda: not limiter.running, FINISH_SECONDS)
    server.run(service.close())  # calls that still wait raise ClientClosedError
    _wait_for(lambda: not limiter.running and server.is_idle, FLUSH_SECONDS)


def make_service(process: ProcessContext, timeout: float | None) -> EncodingService:
    """Connects to the service, and loads the tokenizers and the vocabularies. Returns the service of the first model.

    Args:
        timeout: seconds without a result after which a call fails; None for no limit.

    Raises:
        BertServingError: the service does not reply.
    """
    config = process.config
    # A wildcard address includes the loopback address.
    host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)

    arguments: dict[str, Any] = {
        "ip": host,
        "port": config.port,
        "port_out": config.port_out,
        "check_length": False,  # replies name the truncated texts
        "connect_timeout": CONNECT_TIMEOUT,
        **process.options.get("keys", {}),
    }
    limiter = ConcurrencyLimiter(
        config.http_max_connect,
        max(MIN_QUEUE_LENGTH, config.http_max_connect),
        QUEUE_TIMEOUT,
        has_shares=config.http_keys is not None,
    )
    milliseconds = -1 if timeout is None else timeout * 1000
    contexts = process.of_models()
    client = BertClient(timeout=STATUS_TIMEOUT, **arguments)
    health = HealthChecker(client, sends_probes=not any(each.config.idle_unload for each in contexts))
    services = []
    for each in contexts:
        if len(contexts) > 1:
            arguments["model"] = public_name(each.config)
        services.append(_service_of(each, {**arguments, "timeout": milliseconds}, limiter, health))
    for service in services:
        service.models = services
    return services[0]


def _service_of(
    process: ProcessContext, arguments: dict[str, Any], limiter: ConcurrencyLimiter, health: HealthChecker
) -> EncodingService:
    """Returns the service of one model; ``arguments`` are those of its clients."""
    config, model = process.config, process.model
    tokenizer = make_tokenizer(config, model, process.options["tokenizer"])
    return EncodingService(
        config=config,
        model=model,
        client=BertClient(**arguments),
        async_client=AsyncBertClient(**arguments),
        tokenizer=tokenizer,
        token_ids=TokenIds(tokenizer.ids, tokenizer.frame, config.no_special_token, config.http_token_ids),
        limiter=limiter,
        health=health,
        log=process.log,
    )


def _job_store(process: ProcessContext) -> Store | None:
    """Returns the folder of the batch jobs, without what an earlier process has not completed; None without jobs."""
    from .batch_jobs.store import Store

    config = process.config
    if config.http_jobs is None:
        return None
    try:
        store = Store(config.http_jobs, "uploads", config.http_jobs_bytes)
        store.clear_temporary()
    except OSError as error:
        raise ConfigError(
            f"-http_jobs {config.http_jobs} cannot be used ({error}): name a folder that can be written to"
        ) from None
    return store


def _limit_arenas() -> None:
    """Limits the arenas of glibc's malloc. By default each thread reserves 64 MiB of address space."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no arenas
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _max_connections(process: ProcessContext) -> int:
    """Returns the maximum number of connections: ``-http_max_connections``, or fewer if the process has less files."""
    wanted, limit = process.config.http_max_connections, descriptor_limit()
    possible = max(1, limit - RESERVED_DESCRIPTORS)
    if wanted > possible:
        process.log.warning(
            "-http_max_connections %d needs %d open files, but the limit of this process is %d: HTTP accepts %d "
            "connections. Raise the limit (ulimit -Hn), or lower -http_max_connections",
            wanted,
            wanted + RESERVED_DESCRIPTORS,
            limit,
            possible,
        )
    return min(wanted, possible)


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
