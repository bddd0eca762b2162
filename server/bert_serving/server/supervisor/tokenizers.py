"""Decides how many tokenizer processes run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from ..config.server_config import ServerConfig
from ..engines.cpu_info import num_cores
from .child import Child

#: Cores below which ``auto`` starts no process, and cores for each process.
MIN_CORES, CORES_PER_PROCESS = 8, 4
#: Share of busy time of the ventilator above which ``auto`` starts a process, and the seconds for which it lasts.
BUSY_SHARE, BUSY_SECONDS = 0.7, 3.0


def resolve(config: ServerConfig, cores: int | None = None) -> ServerConfig:
    """Returns the configuration without tokenizer processes if ``auto`` never starts one on this machine."""
    is_small = (num_cores() if cores is None else cores) < MIN_CORES
    return replace(config, num_tokenizer=0) if config.num_tokenizer == "auto" and is_small else config


def count(config: ServerConfig, cores: int | None = None) -> int:
    """Returns the largest number of tokenizer processes."""
    if config.num_tokenizer != "auto":
        return int(config.num_tokenizer)
    return (num_cores() if cores is None else cores) // CORES_PER_PROCESS


def required(children: Mapping[str, Child]) -> list[str]:
    """Returns the names of the processes that were started, except for those that ``auto`` is starting."""
    return [
        name
        for name, child in children.items()
        if child.role == "tokenizer"
        and (child.is_ready or child.incarnation > 1 or child.config.num_tokenizer != "auto")
    ]


class TokenizerScale:
    """Starts the processes of ``auto``, one after the other, while the ventilator is busy."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._busy_since: float | None = None

    def step(self, children: Mapping[str, Child], now: float, start: Callable[[Child, float], None]) -> None:
        """Starts the next process if the ventilator has been busy long enough.

        Args:
            start: starts a child process.
        """
        waiting = [child for child in children.values() if child.role == "tokenizer" and not child.incarnation]
        if not waiting:
            return
        share = children["ventilator"].info.get("busy_share", 0.0)
        is_starting = any(
            child.role == "tokenizer" and child.incarnation and not child.is_ready for child in children.values()
        )
        if share < BUSY_SHARE or is_starting:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since >= BUSY_SECONDS:
            self._busy_since = None
            self._log.info("the ventilator is busy for %.0f %% of the time; starting %s", 100 * share, waiting[0].name)
            start(waiting[0], now)
