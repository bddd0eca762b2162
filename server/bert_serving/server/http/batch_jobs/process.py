"""Runs the process of the batch jobs, beside the HTTP process, so that jobs never delay its requests."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, StartError
from ...ipc.commands import READY, SHARES, STOP
from ...ipc.full_collections import FullCollections
from ...ipc.process_context import ProcessContext
from .store import Store, lock_folder

if TYPE_CHECKING:
    from ..encoding_service import EncodingService

#: Time (s) that another process may take to release the folder: a killed one ends soon.
LOCK_SECONDS = 5.0
#: Time (s) for running requests to be cancelled at the end.
STOP_SECONDS = 2.0


def run(process: ProcessContext) -> None:
    """Runs batch jobs until the supervisor sends STOP.

    Raises:
        StartError: another server uses the folder.
        ConfigError: the folder cannot be used.
        BertServingError: the service does not reply.
    """
    from ..process import make_service
    from .runner import JobShares, Runner

    config = process.config
    control = process.connect_control()
    process.start_heartbeat()
    folder = config.http_jobs
    assert folder is not None
    try:
        store = Store(folder, "work", config.http_jobs_bytes)
        lock = _lock(folder)
        store.clear_temporary()
    except OSError as error:
        raise ConfigError(
            f"-http_jobs {folder} cannot be used ({error}): name a folder that can be written to"
        ) from None
    if lock is None:
        raise StartError(f"-http_jobs {folder} is in use by another server: stop that server, or name another folder")
    service = make_service(process, timeout=None)
    shares = JobShares.of(process.options["shares"])
    runner = Runner(store, service, config.http_jobs_age, shares, process.log)
    loop = asyncio.new_event_loop()
    task = loop.create_task(runner.serve())
    threading.Thread(target=loop.run_forever, name="jobs", daemon=True).start()
    process.log_steps("sockets and files")
    control.send_multipart([READY, b"{}"])
    full_collections = FullCollections()
    while True:
        process.mark_progress()
        full_collections.run_if_due()
        if task.done():
            raise RuntimeError("the task of the batch jobs ended") from task.exception()
        if control.poll(500):
            command, *arguments = control.recv_multipart()
            if command == SHARES and (shares := JobShares.of(json.loads(arguments[0]))) is not None:
                loop.call_soon_threadsafe(runner.update, shares)
            elif command == STOP:
                break
    _stop(loop, task, service)
    lock.close()


def _stop(loop: asyncio.AbstractEventLoop, task: asyncio.Future[None], service: EncodingService) -> None:
    """Cancels the requests of all jobs, so that the service does not compute them."""

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])
        await service.close()

    wait([asyncio.run_coroutine_threadsafe(stop(), loop)], STOP_SECONDS)


def _lock(folder: str) -> Any | None:
    deadline = time.monotonic() + LOCK_SECONDS
    while (lock := lock_folder(folder)) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return lock
