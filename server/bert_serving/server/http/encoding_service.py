"""What all routes share: the client of the service, its limits, and the places for requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client import BertClient

from ..config.server_config import ServerConfig
from ..model.config import ModelConfig
from ..model.default import default_model_dir
from ..model.pooling import PoolingStrategy, dimensions
from ..tokenization.tokenizer import Tokenizer
from .concurrency_limit import ConcurrencyLimiter
from .errors import BadRequest, BodyTooLarge
from .health import HealthChecker
from .token_ids import TokenIds
from .validation import kind_of, shown

#: Texts of one ZeroMQ request. A large HTTP request becomes several that are on their way together; the time limit
#: starts anew with each answer, so it tells a silent service from a long list of texts.
CHUNK = 1024
#: Rows whose text was cut are named up to this many.
MAX_NAMED = 1000


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors ``[n, d]`` (``[n, t, d]`` without pooling), which may be read-only, and what became of the texts.

    Attributes:
        num_tokens: tokens of all texts, special ones included, as the model saw them.
        truncated: rows that were cut to ``max_seq_len``, the first of them.
        num_truncated: how many rows were cut.
        tokens: tokens of each text, if they were asked for.
        timing: seconds of the service's work by stage; of several requests, those of the one that took longest.
    """

    vectors: np.ndarray
    num_tokens: int
    truncated: list[int]
    num_truncated: int
    tokens: list[list[str]] | None = None
    timing: dict[str, float] | None = None


class EncodingService:
    """The way from an HTTP request to the service.

    Args:
        client: shared by all threads; its timeouts bound every wait.
        tokenizer: the same as the service's, to show tokens.
        token_ids: for texts that come as numbers.
        gate: how many requests are worked on at a time.
        readiness: what is known of the service's health.
        log: the proxy's.
    """

    def __init__(
        self,
        config: ServerConfig,
        model: ModelConfig,
        client: BertClient,
        tokenizer: Tokenizer,
        token_ids: TokenIds,
        gate: ConcurrencyLimiter,
        readiness: HealthChecker,
        log: logging.Logger,
    ) -> None:
        self.config, self.client, self.gate, self.readiness, self.log = config, client, gate, readiness, log
        self.token_ids = token_ids
        self._tokenizer = tokenizer
        self.model_name = model_name(config)
        self.token_level = config.pooling_strategy == PoolingStrategy.NONE
        self.dimensions = dimensions(config.pooling_strategy, model.hidden_size, len(config.pooling_layer))
        self._max_positions = config.max_seq_len or model.max_position_embeddings
        self._always_longest = config.max_seq_len is not None or config.fixed_embed_length

    def encode(self, texts: Any, is_tokenized: bool = False, show_tokens: bool = False) -> Encoded:
        """Vectors of a list of texts, or of token lists. Call it from within a place of the gate.

        Raises:
            BadInput: not a list.
            BodyTooLarge: more than may be asked in one request.
            BertServingError: what the client raises.
        """
        if not isinstance(texts, list):
            hint = "; put it into a list" if isinstance(texts, str) else ""
            raise BadRequest(f"'texts' must be a list, received {kind_of(texts)} ({shown(texts)}){hint}", "texts")
        self._check_size(texts)
        timings: list[dict[str, float]] = []
        call = self.client._encode_in_detail(texts, is_tokenized, CHUNK, timings)
        self.readiness.saw_vectors()
        return Encoded(
            call.embedding,
            call.num_tokens,
            sorted(call.truncated)[:MAX_NAMED],
            call.num_truncated,
            self._tokenizer.tokens(self._tokenizer.encode(texts)) if show_tokens else None,
            max(timings, key=lambda timing: timing["total"], default=None),
        )

    def _check_size(self, texts: list[Any]) -> None:
        if len(texts) > self.config.max_request_size:
            raise BodyTooLarge(
                f"{len(texts)} texts in one request; the limit is {self.config.max_request_size} "
                "(-max_request_size): send them in several requests"
            )
        rows = len(texts)
        if self.token_level:
            width = self._max_positions
            if not self._always_longest:  # as long as the longest, whose tokens are no more than its characters
                width = min(width, 3 + max((len(text) for text in texts if isinstance(text, (str, list))), default=0))
            rows *= width
        size = rows * self.dimensions * (2 if self.config.fp16 else 4)
        if size > self.config.http_max_body:
            raise BodyTooLarge(
                f"the vectors of {len(texts)} texts would be {size} bytes; the limit is {self.config.http_max_body} "
                "(-http_max_body): send fewer texts in one request"
            )


def model_name(config: ServerConfig) -> str:
    """What the model is called towards users: its folder's name, without the way there."""
    if config.tuned_model_dir:
        return Path(config.tuned_model_dir).resolve().name
    if config.model_dir == default_model_dir():
        return "all-MiniLM-L6-v2"
    return Path(config.model_dir).resolve().name
