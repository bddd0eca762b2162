"""The life of the HTTP process: connect to the service, listen, and when told to stop, finish what was begun."""

from __future__ import annotations

import time
from collections.abc import Callable

from bert_serving.client import BertClient

from ..errors import PortInUse, StartError
from ..ipc.commands import DRAIN, DRAINED, READY, STOP
from ..ipc.process_context import ProcessContext
from ..tokenization.factory import make_tokenizer
from ..tokenization.vocabulary import read_vocabulary
from .app import make_app
from .bearer_token import read_token
from .concurrency_limit import ConcurrencyLimiter
from .encoding_service import EncodingService
from .health import HealthChecker
from .metrics import Metrics
from .server import HttpServer, log_to
from .token_ids import TokenIds

#: Milliseconds that a call waits for a service that is away before it says so: longer than a restart takes.
CONNECT_TIMEOUT = 10_000
#: Milliseconds that a question about health may take.
STATUS_TIMEOUT = 3_000
#: Requests may wait for a place for so long (s), and so many of them, or as many as there are places. Each holds a
#: thread, and a connection that is kept open has one request at a time: so many connections are never refused.
PATIENCE, WAITING = 5.0, 128
#: Threads beside those that work or wait: for health, metrics and refusals.
SPARE_THREADS = 8
#: When the server stops, running requests get so long (s) to finish, then their answers so long to leave.
FINISH_SECONDS, FLUSH_SECONDS = 2.0, 3.0


def serve(link: ProcessContext) -> None:
    """Serves HTTP until told to stop."""
    control = link.connect_control()
    link.start_heartbeat()
    log_to(link.log)
    token = read_token(link.config)
    door = make_door(link)
    metrics = Metrics(door.readiness, door.gate)
    listener = _listen(door, metrics, token)
    control.send_multipart([READY, b"{}"])

    said_drained = False
    while True:
        link.mark_progress()
        if door.gate.closed and not said_drained and not door.gate.running and listener.is_idle:
            said_drained = True
            control.send(DRAINED)
        if not listener.is_alive:
            raise StartError("the HTTP listener ended by itself; the log above says why")
        if control.poll(50 if door.gate.closed else 500):
            kind = control.recv_multipart()[0]
            if kind == DRAIN:
                door.gate.close()
            elif kind == STOP:
                break

    door.gate.close()
    _wait_for(lambda: not door.gate.running, FINISH_SECONDS)
    door.client.close()  # who still waits for vectors is told that none will come
    _wait_for(lambda: not door.gate.running and listener.is_idle, FLUSH_SECONDS)


def make_door(link: ProcessContext) -> EncodingService:
    """Connects to the service, and loads what texts and token ids are read with.

    Raises:
        BertServingError: the service does not answer.
    """
    config = link.config
    model = config.read_model()

    # What is listened on by all addresses is reached by the loopback one.
    host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)

    def connect(timeout: float) -> BertClient:
        return BertClient(
            host,
            config.port,
            config.port_out,
            check_length=False,  # the answers tell which texts were cut
            timeout=timeout,
            connect_timeout=CONNECT_TIMEOUT,
            **link.options.get("keys", {}),
        )

    return EncodingService(
        config=config,
        model=model,
        client=connect(config.http_timeout * 1000),
        tokenizer=make_tokenizer(config, model),
        token_ids=TokenIds(read_vocabulary(model.vocab_path).ids, keep_special=config.no_special_token),
        gate=ConcurrencyLimiter(config.http_max_connect, max(WAITING, config.http_max_connect), PATIENCE),
        readiness=HealthChecker(connect(STATUS_TIMEOUT)),
        log=link.log,
    )


def _listen(door: EncodingService, metrics: Metrics, token: str | None) -> HttpServer:
    config, gate = door.config, door.gate
    host, port = "0.0.0.0" if config.host == "*" else config.host, config.http_port
    assert port is not None
    threads = gate.most_running + gate.max_waiting + SPARE_THREADS
    try:
        app = make_app(door, metrics, token)
        listener = HttpServer(app, host, port, threads, config.http_max_body, metrics.refused)
    except OSError as error:
        raise PortInUse(f"-http_port {port} cannot be used ({error.strerror}): choose another port") from None
    listener.start()
    door.log.info("HTTP at http://%s:%d, described at /docs", host, port)
    return listener


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
