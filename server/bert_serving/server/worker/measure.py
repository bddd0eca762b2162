"""Times an engine in a process of its own, so that a crash ends this process only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from ..engines import load
from ..engines.base import Device, Engine, EngineError, EngineSpec
from ..engines.batch import Batch
from ..engines.measurement import Timing
from ..ipc.commands import READY
from ..ipc.process_context import ProcessContext
from .affinity import bind_to_cores
from .engine_spec import engine_spec

#: Seconds of timing for one text, and as many for a batch. A call that takes longer is timed once.
SECONDS = 1.0
#: Number of texts in the batch, and the largest number of tokens in a text.
BATCH_TEXTS, MAX_TOKENS = 32, 32


def run(process: ProcessContext) -> None:
    """Prepares the model for one engine, times it, and reports a :class:`Timing`. Ends at the next command.

    Raises:
        EngineError: the engine cannot compute the model, or returns numbers that are not finite.
        ModelError: the model cannot be read.
    """
    device = Device(**process.options["device"])
    bind_to_cores(device, process.log.warning)
    control = process.connect_control()
    process.start_heartbeat()
    process.mark_progress(busy=True)
    spec = engine_spec(process.config, process.model, process.options)
    module = load(process.options["engine"])
    module.prepare(spec, process.log.debug)
    timing = time_engine(module.create(spec, device), spec)
    report = {
        "text_seconds": timing.text_seconds,
        "batch_seconds": timing.batch_seconds,
        "batch_texts": timing.batch_texts,
    }
    control.send_multipart([READY, json.dumps(report).encode()])
    control.recv_multipart()


def time_engine(engine: Engine, spec: EngineSpec, clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Returns the shortest times: those with the least interference by other processes.

    Args:
        clock: returns seconds.

    Raises:
        EngineError: the engine fails, or returns numbers that are not finite.
    """
    longest = min(spec.longest, MAX_TOKENS)
    text = _make_batch(np.full(1, max(1, longest // 2), np.int32), spec.model.vocab_size)
    lengths = np.linspace(max(1, longest // 4), longest, BATCH_TEXTS).astype(np.int32)
    batch = _make_batch(lengths, spec.model.vocab_size)
    return Timing(_shortest(engine, text, clock), _shortest(engine, batch, clock), BATCH_TEXTS)


def _shortest(engine: Engine, batch: Batch, clock: Callable[[], float]) -> float:
    """Returns the shortest time of a batch in seconds, above 0, without that of the first run."""
    if not np.isfinite(engine.encode(batch)).all():
        raise EngineError("the engine returns numbers that are not finite")
    shortest, end = np.inf, clock() + SECONDS
    while True:
        began = clock()
        engine.encode(batch)
        ended = clock()
        shortest = min(shortest, max(ended - began, 1e-9))
        if ended >= end:
            return shortest


def _make_batch(lengths: np.ndarray, vocab_size: int) -> Batch:
    count = int(lengths.sum())
    ids = np.arange(count, dtype=np.int32) % vocab_size
    return Batch(ids, np.zeros(count, np.int32), np.ones(count, np.int32), lengths)
