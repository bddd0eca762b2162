"""What the server says of itself: the JSON that answers SHOW_CONFIG and SHOW_STATUS.

The keys of 1.10.0 come first, in its order and meaning; the rest is new. The old client requires ``server_version``,
``max_seq_len`` and ``show_tokens_to_client``.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import zmq

from bert_serving.client.protocol import COMPATIBLE_VERSION, PROTOCOL_VERSION

from ..version import __version__

if TYPE_CHECKING:
    from .ventilator import Ventilator

STARTED = datetime.now()


def config_json(ventilator: Ventilator, identity: bytes) -> bytes:
    """The answer to SHOW_CONFIG."""
    return json.dumps(_facts(ventilator, identity), default=str).encode()


def status_json(ventilator: Ventilator, identity: bytes) -> bytes:
    """The answer to SHOW_STATUS: the same with ``statistic`` and what goes on now."""
    facts = _facts(ventilator, identity)
    dispatcher = ventilator.dispatcher
    facts["statistic"] = ventilator.statistics.to_dict(ventilator.clock())
    facts["queue"] = {
        "requests": len(ventilator.jobs),
        "sequences": dispatcher.scheduler.num_sequences,
        "tokens": dispatcher.scheduler.num_tokens,
        "batches_in_flight": len(dispatcher.flights),
    }
    facts["times"] = ventilator.statistics.times()
    facts["batches"] = {
        "sequences": dispatcher.batch_sizes.to_dict(),
        "tokens": dispatcher.num_tokens,
        "padding": dispatcher.num_padding,
    }
    if ventilator.drift is not None:
        facts["drift"] = ventilator.drift
    facts["workers"] = [
        {
            "name": state.name.decode(),
            **state.facts,
            "max_batch_tokens": state.limits.max_tokens,
            "batches": state.num_batches,
            "sequences": state.num_sequences,
            "tokens": state.num_tokens,
            "in_flight": len(state.in_flight),
            "last_batch_seconds": round(state.last_seconds, 6),
        }
        for state in dispatcher.workers.values()
    ]
    return json.dumps(facts, default=str).encode()


def _facts(ventilator: Ventilator, identity: bytes) -> dict[str, Any]:
    config, addresses = ventilator.config, ventilator.link.addresses
    known = ventilator.link.info.get("supervisor", {})
    workers = ventilator.dispatcher.workers
    state = known.get("state", "starting")
    return {
        "client": identity.decode("ascii", "backslashreplace"),
        "num_process": known.get("num_process", 0),
        "ventilator -> worker": [addresses.dispatch],
        "worker -> sink": addresses.results,
        "ventilator <-> sink": addresses.link,
        "server_current_time": str(datetime.now()),
        "num_concurrent_socket": len(workers),
        **config.public(),
        **_static(),
        "bert_serving_version": __version__,
        "protocol_version": PROTOCOL_VERSION,
        "state": "degraded" if state == "ready" and ventilator.dispatcher.is_failing else state,
        "num_ready_worker": known.get("num_ready_worker", 0),
        "num_restarts": known.get("num_restarts", 0),
        "restarts": known.get("restarts", {}),
        "devices": known.get("devices", []),
        "engine_in_use": known.get("engine", config.engine),
        "dtype_in_use": known.get("dtype", config.dtype),
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
    }


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
