"""Builds the JSON replies to SHOW_CONFIG and SHOW_STATUS.

The keys of 1.10.0 come first, with its order and meaning; all others are new. The old client requires
``server_version``, ``max_seq_len`` and ``show_tokens_to_client``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import metadata
from typing import Any, NamedTuple

import zmq

from bert_serving.client.protocol import COMPATIBLE_VERSION, PROTOCOL_VERSION

from ..config.folders import hide_folders
from ..ipc.endpoints import Addresses
from ..monitoring.statistics import Statistics
from ..version import __version__
from .join_port import JoinPort
from .result_admission import ResultAdmission
from .served_model import ServedModel, batches, total
from .share_table import ShareTable
from .tokenizer_state import TokenizerState

STARTED = datetime.now()


class ResultMemory(NamedTuple):
    """Bytes of results in the sink: under assembly, waiting for their readers, and handed to ZeroMQ."""

    assembling: int
    queued: int
    in_pipes: int


@dataclass(frozen=True, slots=True)
class ServerState:
    """Holds the values that the replies report.

    Attributes:
        served: the model that the command names, or the first one.
        models: all models.
        unloaded: names of the models that have freed their memory.
        supervisor: contents of the supervisor's last STATE command; empty before the first.
        tokenizers: the tokenizer processes.
        busy_share: share of time in which the ventilator was busy, in the last measured second.
        num_requests: number of requests in progress.
        held_bytes, unread_bytes: memory of these requests, and of messages that are not read yet.
        max_bytes: limit of both.
        result_memory: memory of the results in the sink.
        admission: reservations of memory for results, and requests that wait for it.
        shares: usage of each name; None without ``-http_keys``.
        drifts: drift of texts and vectors of each model; None without ``drift_reference``.
        now: monotonic seconds.
    """

    served: ServedModel
    models: Sequence[ServedModel]
    unloaded: Sequence[str]
    addresses: Addresses
    supervisor: Mapping[str, Any]
    join_port: JoinPort
    tokenizers: Collection[TokenizerState]
    busy_share: float
    statistics: Statistics
    num_requests: int
    held_bytes: int
    unread_bytes: int
    max_bytes: int
    result_memory: ResultMemory
    admission: ResultAdmission
    shares: ShareTable | None
    drifts: Sequence[Mapping[str, Any] | None]
    now: float


def config_json(state: ServerState, identity: bytes, hides_folders: bool) -> bytes:
    """Returns the reply to SHOW_CONFIG for a client."""
    return _to_json(_config(state, identity), hides_folders)


def status_json(state: ServerState, identity: bytes, hides_folders: bool) -> bytes:
    """Returns the reply to SHOW_STATUS: the keys of SHOW_CONFIG, statistics, queue and workers."""
    status = _config(state, identity)
    status["statistic"] = state.statistics.to_dict(state.now)
    status["queue"] = {
        "requests": state.num_requests,
        **total(model.queue() for model in state.models),
        "bytes": state.held_bytes,
        "unread_bytes": state.unread_bytes,
        "max_bytes": state.max_bytes,
    }
    status["results"] = {
        **state.result_memory._asdict(),
        "reserved": state.admission.reserved_bytes,
        "waiting_requests": len(state.admission.waiting),
        "max_bytes": state.admission.max_bytes,
    }
    status["times"] = state.statistics.times()
    status["batches"] = batches(state.models)
    status["cache"] = total(model.dispatcher.cache.to_dict() for model in state.models)
    if state.shares is not None:
        status["shares"] = state.shares.to_dict()
    if state.drifts[0] is not None:
        status["drift"] = state.drifts[0]
    is_one = len(state.models) == 1
    status["workers"] = [
        worker if is_one else {**worker, "model": model.name} for model in state.models for worker in model.workers()
    ]
    if not is_one:
        status["by_model"] = {
            model.name: model.to_dict() | ({} if drift is None else {"drift": drift})
            for model, drift in zip(state.models, state.drifts, strict=True)
        }
    status["ventilator"] = {"busy_share": round(state.busy_share, 4)}
    status["tokenizers"] = [each.to_dict() for each in state.tokenizers]
    if state.join_port.machines is not None:
        status["joined"] = state.join_port.machines.to_dict(state.now)
    return _to_json(status, hides_folders)


def _to_json(status: dict[str, Any], hides_folders: bool) -> bytes:
    return json.dumps(hide_folders(status) if hides_folders else status, default=str).encode()


def _config(state: ServerState, identity: bytes) -> dict[str, Any]:
    served, addresses, supervisor = state.served, state.addresses, state.supervisor
    config = served.config
    phase = supervisor.get("state", "starting")
    has_workers = all(each.config.num_worker != 0 or each.dispatcher.num_joined_workers for each in state.models)
    is_able = has_workers and not any(model.dispatcher.is_failing for model in state.models)
    return {
        "client": identity.decode("ascii", "backslashreplace"),
        "num_process": supervisor.get("num_process", 0),
        "ventilator -> worker": [addresses.dispatch],
        "worker -> sink": addresses.results,
        "ventilator <-> sink": addresses.channel,
        "server_current_time": str(datetime.now()),
        "num_concurrent_socket": sum(len(model.dispatcher.workers) for model in state.models),
        **config.public(),
        "pooling_strategy_name": config.pooling_strategy.name,
        **_static(),
        "bert_serving_version": __version__,
        "protocol_version": PROTOCOL_VERSION,
        "state": "degraded" if phase == "ready" and not is_able else phase,
        "num_ready_worker": supervisor.get("num_ready_worker", 0) + state.join_port.num_workers,
        "num_restarts": supervisor.get("num_restarts", 0),
        "restarts": supervisor.get("restarts", {}),
        "devices": supervisor.get("devices", []),
        "engine_in_use": supervisor.get("engine") or config.engine,
        "dtype_in_use": supervisor.get("dtype") or config.dtype,
        "vector_space": served.spaces.default,
        "output_spaces": config.output_spaces,
        "embedding_types": served.spaces.by_type,
        "request_pooling": served.spaces.request_pooling,
        "unknown_token": served.unknown_token,
        "model": served.name,
        "models": [model.name for model in state.models],
        "unloaded_models": list(state.unloaded),
    }


@lru_cache(maxsize=1)
def _static() -> dict[str, Any]:
    return {
        "tensorflow_version": _version("tensorflow", "tensorflow-cpu").split("."),
        "python_version": sys.version,
        "server_version": COMPATIBLE_VERSION,
        "pyzmq_version": zmq.pyzmq_version(),
        "zmq_version": zmq.zmq_version(),
        "server_start_time": str(STARTED),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Returns the versions of the server, of Python and of the installed packages that compute."""
    packages = ("numpy", "pyzmq", "onnxruntime", "tensorflow", "tensorflow-cpu", "torch", "tokenizers")
    installed = {name: version for name in packages if (version := _version(name))}
    return {"bert-serving-server": __version__, "python": sys.version.split()[0], **installed}


def _version(*distributions: str) -> str:
    """Returns the version of the first installed distribution, or an empty string."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
