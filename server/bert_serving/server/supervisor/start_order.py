"""Decides which child processes start at once, and which wait for the prepared model."""

from __future__ import annotations

from collections.abc import Mapping

from .child import Child
from .tokenizers import required


def due(children: Mapping[str, Child]) -> list[Child]:
    """Returns the processes that have not been started and need not wait.

    Workers, the HTTP process and that of the batch jobs wait until every model is prepared.
    """
    is_prepared = all(child.is_finished for child in children.values() if child.role == "prepare")
    roles = {"ventilator", "sink", "prepare", *(("worker", "http", "jobs") if is_prepared else ())}
    needed = required(children)
    return [
        child
        for name, child in children.items()
        if (child.role in roles or name in needed) and not child.is_finished and not child.incarnation
    ]
