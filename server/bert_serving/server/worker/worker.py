"""Runs a worker process: receives packed batches, encodes them on one device and sends the vectors to the sink."""

from __future__ import annotations

import json
import time
from typing import Any

from ..engines import load
from ..engines.base import Device
from ..engines.nvml import GpuMeter
from ..ipc.commands import READY, STOP, from_u64
from ..ipc.messages import BatchMessage, decode_commands
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import recv_available
from ..model.pipeline import SentencePipeline
from ..model.pooling import PoolingStrategy
from .affinity import bind_to_cores
from .batch_encoder import BatchEncoder
from .bit_check import require_equal_bits
from .engine_spec import engine_spec
from .front_connection import FrontConnection
from .head_weights import load_head_weights
from .sentence_head import SentenceHead
from .started_batches import StartedBatches
from .token_head_weights import load_token_heads
from .token_heads import TokenHeads
from .wake_up import WakeUp
from .warm_up import warm_up


def run(process: ProcessContext) -> None:
    """Runs the worker process until STOP.

    Raises:
        DeviceLost: the device fails; the ventilator requeues the batches of this worker.
    """
    device = Device(**process.options["device"])
    bind_to_cores(device, process.log.warning)
    meter = GpuMeter(device.index) if device.kind == "gpu" else None
    process.start_heartbeat()
    process.mark_progress(busy=True)
    spec = engine_spec(process.config, process.model, process.options)
    engine = load(process.options["engine"]).create(spec, device)
    process.steps.done("engine")
    pipeline = process.config.pipeline or SentencePipeline("", ())
    token_level = process.config.pooling_strategy == PoolingStrategy.NONE
    head = token_heads = None
    if not token_level:
        weights = load_head_weights(process.options["prepared"]["head"])
        head = SentenceHead(pipeline, process.config.pooled_size(spec.model), weights, process.config.deterministic)
    if pipeline.has_token_heads:
        token_weights = load_token_heads(process.options["prepared"]["token_heads"])
        token_heads = TokenHeads(pipeline, token_weights, spec.output_dtype)
    if process.config.deterministic:
        longest = min(spec.model.max_tokens, process.config.max_seq_len or spec.model.max_tokens)
        require_equal_bits(engine, head, spec.model.vocab_size, longest, device.threads)
    encoder = BatchEncoder(engine, head, spec, token_heads)
    process.steps.done("other weights and checks")
    max_tokens = warm_up(engine, device, spec.model.max_tokens, process.config.max_seq_len)
    process.steps.done("first batches")
    process.log.info("use device %s, engine %s, %s", device, process.options["engine"], spec.dtype)
    for note in getattr(engine, "startup_notes", ()):
        process.log.info(note)

    control = process.connect_control()
    front = FrontConnection(process)
    info = {"device": str(device), "max_tokens": max_tokens, "engine": process.options["engine"]}
    info |= {"has_token_vectors": encoder.has_token_vectors, "overlaps": encoder.overlaps}
    info |= {"enqueues": encoder.enqueues}
    if number := process.options.get("model_number", 0):
        info["model"] = number
    if "join" in process.options:
        joined = process.options["join"]
        info |= {"machine": joined["machine"], "process": process.name, "model": joined["model"]}
    registration = json.dumps(info).encode()
    front.register(registration)
    process.log_steps("connection")
    process.log.info("ready and listening!")
    control.send_multipart([READY, registration])

    wake_up, full_tokens = WakeUp(), process.config.max_batch_tokens or max_tokens
    started = StartedBatches(process, front, encoder, token_level, full_tokens, wake_up.send)
    poller = front.poller(control, wake_up.readable)
    next_register_at = time.monotonic() + 1
    while True:
        if not started.is_computing:  # a batch without an end is no progress
            process.mark_progress(busy=bool(started))
        events = dict(poller.poll(0 if started and not started.is_computing else 1000))
        if wake_up.readable.fileno() in events:
            wake_up.clear()
        if control in events and control.recv_multipart()[0] == STOP:
            break
        if front.is_cut(events):
            process.log.warning("the connection to the front was cut; connecting again")
            started.drop()
            front.open_again()
            poller = front.poller(control, wake_up.readable)
            next_register_at = 0.0
            continue
        frames = next(recv_available(front.batches, 1, copy=False), None) if front.batches in events else None
        if frames is not None and len(frames[0]) == 0:
            started.last_read = _last_sent(frames[1])
        elif frames is not None:
            process.mark_progress(busy=True)
            started.start(BatchMessage.from_frames(frames))
        if started.is_full or (started and frames is None and not started.is_computing):
            started.finish_first()
            process.mark_progress(busy=bool(started))
        if time.monotonic() >= next_register_at:  # repeated for a ventilator that was restarted
            next_register_at = time.monotonic() + 1
            if meter is not None:
                registration = json.dumps(info | meter.read()).encode()
            if front.register(registration) and not started:
                front.report_idle(started.last_read)
    engine.close()
    wake_up.close()


def _last_sent(frame: Any) -> int:
    """Returns the batch that BATCHES_SENT names."""
    ((_, last_batch),) = decode_commands(frame)
    return from_u64(last_batch)
