"""The drift of the texts of one model: that of unknown tokens, and what the sink reports about vectors."""

from __future__ import annotations

from typing import Any

from ..ipc.process_context import ProcessContext
from ..monitoring.drift import Reference, UnknownDrift


class TextDrift(UnknownDrift):
    """Counts unknown tokens, and keeps the last report of the sink.

    Attributes:
        vectors: the report: ``VectorDrift.to_dict``.
    """

    def __init__(self, reference: Reference, window: int) -> None:
        super().__init__(reference, window)
        self.vectors: dict[str, Any] = {"seen": 0, "texts": 0}

    @classmethod
    def of(cls, context: ProcessContext) -> TextDrift | None:
        """Returns the drift of a model; None without ``-drift_reference``."""
        reference = context.options["drift"]
        return cls(Reference.from_dict(reference), context.config.drift_window) if reference else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the values for the status."""
        return {**self.vectors, **super().to_dict()}
