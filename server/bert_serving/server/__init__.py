"""A service that turns sentences into BERT vectors, over ZeroMQ.

``bert-serving-start`` runs it from the shell, :class:`BertServer` from Python. See ``docs/architecture.md`` for the
processes behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .supervisor.supervisor import BertServer

__all__ = ["BertServer", "__version__"]


def __getattr__(name: str) -> object:
    # Imported on first use: a worker process needs this package, but none of the supervisor's machinery.
    if name == "BertServer":
        from .supervisor.supervisor import BertServer

        return BertServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
