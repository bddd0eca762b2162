"""Describes the state of the server for its status."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from .child import Child
from .placement import WorkerPlacement


def describe_state(
    state: str,
    children: Collection[Child],
    placements: Sequence[WorkerPlacement],
    restarts: dict[str, int],
    is_up: Callable[[Child], bool],
) -> bytes:
    """Returns the part of the status JSON that the supervisor knows.

    Args:
        is_up: returns whether a process is ready. A worker that a request starts is ready, too.
    """
    values = {
        "state": state,
        "num_process": sum(child.is_running and child.role != "prepare" for child in children),
        "num_ready_worker": sum(is_up(child) for child in children if child.role == "worker"),
        "num_restarts": sum(restarts.values()),
        "restarts": restarts,
        "devices": [str(placement.device) for placement in placements],
        "engine": ", ".join(sorted({placement.engine for placement in placements})),
        "dtype": ", ".join(sorted({placement.dtype for placement in placements})),
    }
    return json.dumps(values).encode()
