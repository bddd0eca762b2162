"""Defines the commands between the server's processes. They are not part of the protocol of clients.

============  =======================  ==================================================================
socket        from -> to               commands
============  =======================  ==================================================================
dispatch      worker -> ventilator     REGISTER json                 the worker's model, device and batch limits
              worker -> ventilator     BATCH_FAILED id kind text     the engine refused this batch
              tokenizer -> ventilator  REGISTER_TOKENIZER            the process takes texts
              tokenizer -> ventilator  TOKENIZED results             see :class:`.tokenization.messages.ResultMessage`
              ventilator -> tokenizer  texts                         see :class:`.tokenization.messages.TaskMessage`
              ventilator -> worker     a batch                       see :class:`.messages.BatchMessage`
              ventilator -> worker     an empty frame, and BATCHES_SENT id: all batches up to this one were sent before
results       worker -> sink           its vectors                   see :class:`.messages.Result`
              worker -> sink           an empty frame, and WORKER_IDLE; the sink forwards it behind the results
channel       ventilator -> sink       JOB_CHUNK job + texts         announces texts of a job; the announcement of a job
                                                                      that fits in one batch travels with that batch
              ventilator -> sink       CANCEL_JOB job                the job was answered with an error or dropped
              ventilator -> sink       QUERY_JOB local_id job        asks whether the job's reply is pending
              ventilator -> sink       PUBLISH identity frames       publishes these frames unchanged
              ventilator -> sink       PUBLISH_ON_SUBSCRIBE identity frames
                                                                     the same, for a client that may subscribe later
              ventilator -> sink       SYNC epoch batch [nonce]      a new ventilator, which knows no earlier job; with
                                                                      a nonce, the answer to SYNC_REQUEST. Results of
                                                                      earlier batches are stale
              sink -> ventilator       SYNC_REQUEST nonce            a new sink asks for all unfinished jobs
              sink -> ventilator       BATCH_DONE batch_id duration  the batch's rows have arrived
              sink -> ventilator       BATCH_FAILED id kind text     the result has the wrong shape or dtype
              sink -> ventilator       WORKER_IDLE worker batch      the worker held no batch; it had read all messages
                                                                      up to this batch
              sink -> ventilator       JOB_PENDING local_id job      the job's reply is pending
              sink -> ventilator       JOB_PUBLISHED local_id job    the job's reply was published before the query
              sink -> ventilator       DRIFT json model              findings of :class:`VectorDrift`, for the status
              sink -> ventilator       RESULT_MEMORY assembling queued in_pipes
                                                                     bytes of results in the sink
              ventilator -> sink       FREE_RESULTS bytes            drop results of clients that do not read
              ventilator -> sink       CACHED_ROWS id rows           add vectors that the sink has to a job, see
                                                                      :class:`.cached_rows.CachedRows`. The reply is
                                                                      BATCH_DONE or CACHE_MISS
              sink -> ventilator       CACHE_MISS id entries         these vectors were dropped
              sink -> ventilator       CACHE_UPDATE bytes entries model
                                                                      memory of the cache of a model, and the dropped
                                                                      entries
              sink -> ventilator       CANCEL_CLIENT identity        the client has disconnected: drop its requests
control       child -> supervisor      READY, HEARTBEAT, DRAINED, FATAL, TERMINATE, WORKER_DRAINED worker,
                                                                     MODELS_UNLOADED json: their workers, by index
              supervisor -> child      DRAIN, RESUME, STOP, WORKER_LOST worker, STATE json, DRAIN_WORKER worker,
                                                                     BIND_AGAIN, SHARES json
============  =======================  ==================================================================

A message on the channel holds all commands that are ready when it is sent, encoded by ``messages.encode_commands``.
Numbers are little-endian 64-bit integers. Nothing is pickled. Durations are in nanoseconds. No command carries the
reading of a clock, because a worker may run on another machine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

# dispatch
REGISTER, BATCH_FAILED, BATCHES_SENT = b"REGISTER", b"BATCH_FAILED", b"BATCHES_SENT"
REGISTER_TOKENIZER, TOKENIZED = b"REGISTER_TOKENIZER", b"TOKENIZED"
# channel, ventilator -> sink
JOB_CHUNK, CANCEL_JOB, QUERY_JOB = b"JOB_CHUNK", b"CANCEL_JOB", b"QUERY_JOB"
PUBLISH, PUBLISH_ON_SUBSCRIBE, SYNC = b"PUBLISH", b"PUBLISH_ON_SUBSCRIBE", b"SYNC"
# channel, sink -> ventilator
SYNC_REQUEST, BATCH_DONE, CANCEL_CLIENT, DRIFT = b"SYNC_REQUEST", b"BATCH_DONE", b"CANCEL_CLIENT", b"DRIFT"
RESULT_MEMORY, FREE_RESULTS = b"RESULT_MEMORY", b"FREE_RESULTS"
JOB_PENDING, JOB_PUBLISHED, WORKER_IDLE = b"JOB_PENDING", b"JOB_PUBLISHED", b"WORKER_IDLE"
CACHED_ROWS, CACHE_MISS, CACHE_UPDATE = b"CACHED_ROWS", b"CACHE_MISS", b"CACHE_UPDATE"
# control
READY, HEARTBEAT, DRAINED, FATAL, TERMINATE = b"READY", b"HEARTBEAT", b"DRAINED", b"FATAL", b"TERMINATE"
DRAIN, STOP, STATE = b"DRAIN", b"STOP", b"STATE"
RESUME = b"RESUME"  # the drain is interrupted: requests are accepted again
BIND_AGAIN = b"BIND_AGAIN"  # the files of the process's sockets were removed
SHARES = b"SHARES"  # the file of -http_keys was read again
MODELS_UNLOADED = b"MODELS_UNLOADED"
WORKER_LOST, DRAIN_WORKER, WORKER_DRAINED = b"WORKER_LOST", b"DRAIN_WORKER", b"WORKER_DRAINED"

_U64 = struct.Struct("<Q")
#: Encodes a number.
u64: Callable[[int], bytes] = _U64.pack


def from_u64(frame: Any) -> int:
    """Decodes a number.

    Raises:
        ValueError: the frame has another size.
    """
    try:
        number: int = _U64.unpack(frame)[0]
    except struct.error as error:
        raise ValueError(f"a number has 8 bytes ({error})") from None
    return number
