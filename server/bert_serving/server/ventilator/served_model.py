"""What a model of the server is, and what it has computed, for the replies to SHOW_CONFIG and SHOW_STATUS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..config.models import public_name
from ..config.request_pooling import RequestPooling
from ..config.server_config import ServerConfig
from ..model.config import ModelConfig
from ..monitoring.histogram import Histogram
from ..scheduling.dispatcher import Dispatcher
from ..tokenization.tokenizer import Tokenizer


class ServedSpaces(NamedTuple):
    """Spaces of the vectors of requests without options, and what changes them.

    Attributes:
        default: space of requests without options.
        by_type: spaces by embedding type; empty if the server has no embedding types.
        request_pooling: strategies and layers that requests may ask for.
    """

    default: str
    by_type: dict[str, str]
    request_pooling: dict[str, list[str] | list[int]]

    @classmethod
    def of(cls, config: ServerConfig, model: ModelConfig) -> ServedSpaces:
        """Returns the spaces of a server."""
        spaces = config.vector_spaces(model)
        by_type = spaces.by_type() if config.has_text_vectors else {}
        return cls(config.default_space(model), by_type, RequestPooling(config, model).to_dict())


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the server.

    Attributes:
        name: its name in requests.
        config: its options.
        spaces: the spaces of its vectors.
        unknown_token: the token for unknown text; None if the vocabulary has none.
        dispatcher: has its queue and its workers.
    """

    name: str
    config: ServerConfig
    spaces: ServedSpaces
    unknown_token: str | None
    dispatcher: Dispatcher

    @classmethod
    def of(cls, config: ServerConfig, model: ModelConfig, tokenizer: Tokenizer, dispatcher: Dispatcher) -> ServedModel:
        return cls(public_name(config), config, ServedSpaces.of(config, model), tokenizer.unknown_token, dispatcher)

    def queue(self) -> dict[str, int]:
        """Returns its queued sequences and its batches in flight."""
        scheduler = self.dispatcher.scheduler
        return {
            "sequences": scheduler.num_sequences,
            "tokens": scheduler.num_tokens,
            "batches_in_flight": len(self.dispatcher.in_flight),
        }

    def workers(self) -> list[dict[str, Any]]:
        """Returns what is known of its workers."""
        return [
            {
                "name": worker.shown_name,
                **worker.info,
                **({"machine": worker.machine} if worker.machine else {}),
                "max_batch_tokens": worker.limits.max_tokens,
                "batches": worker.num_batches,
                "sequences": worker.num_sequences,
                "tokens": worker.num_tokens,
                "in_flight": len(worker.in_flight),
                "last_batch_seconds": round(worker.last_seconds, 6),
            }
            for worker in self.dispatcher.workers.values()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns its part of the status."""
        return {
            "task": self.config.task,
            "max_seq_len": self.config.max_seq_len,
            "vector_space": self.spaces.default,
            "num_ready_worker": len(self.dispatcher.workers),
            "queue": self.queue(),
            "sequences": int(self.dispatcher.batch_sizes.sum),
            "tokens": self.dispatcher.num_tokens,
            "cache": self.dispatcher.cache.to_dict(),
        }


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Returns the sums of numbers by their key."""
    sums: dict[str, int] = {}
    for each in counts:
        for key, value in each.items():
            sums[key] = sums.get(key, 0) + value
    return sums


def batches(models: Sequence[ServedModel]) -> dict[str, Any]:
    """Returns the batches that the workers of all models have computed."""
    dispatchers = [model.dispatcher for model in models]
    return {
        "sequences": Histogram.sum_of([each.batch_sizes for each in dispatchers]).to_dict(),
        "tokens": sum(each.num_tokens for each in dispatchers),
        "padding": sum(each.num_padding for each in dispatchers),
    }
