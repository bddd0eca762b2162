"""Encodes the texts of HTTP requests through a client of the service, within the limits of the configuration."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_serving.client import AsyncBertClient, BertClient, SparseVector
from bert_serving.client.protocol import PART_MODES

from ..config.models import public_name
from ..config.request_pooling import RequestPooling
from ..config.server_config import ServerConfig
from ..errors import InvalidRequest
from ..model.config import ModelConfig
from ..model.pooling import PoolingStrategy
from ..model.quantization import Quantizer, missing_ranges, row_bytes
from ..model.vector_options import VectorOptions
from ..tokenization.part_modes import shown_tokens, tokenize_mode
from ..tokenization.tokenizer import Tokenized, Tokenizer
from .concurrency_limit import ConcurrencyLimiter
from .errors import BadRequest, BodyTooLarge
from .health import HealthChecker
from .http_access import RequestShare
from .output_sizes import OutputSizes
from .token_ids import TokenIds
from .validation import json_type, truncate_repr

#: Texts per ZeroMQ request. A large HTTP request becomes several ZeroMQ requests in flight at a time. The timeout
#: restarts with each reply, so a long list of texts alone does not exceed it.
CHUNK_SIZE = 1024
#: Maximum size (characters) of the first texts of all pairs in a ZeroMQ request. A query travels with each of its
#: documents, and a large message holds the GIL while it is encoded.
PAIR_CHARACTERS = 2**20
#: Outputs by which texts can be compared with a query.
COMPARED = ("sparse", "multi")
#: Maximum number of truncated rows listed in a response.
MAX_TRUNCATED_ROWS = 1000


@dataclass(frozen=True, slots=True)
class EncodingResult:
    """Vectors of one HTTP request, with token counts and timing.

    Attributes:
        vectors: ``[n, d]``, or ``[n, t, d]`` without pooling; may be read-only.
        num_tokens: tokens of all texts as the model sees them, including special tokens.
        truncated: the first `MAX_TRUNCATED_ROWS` rows truncated to ``max_seq_len``.
        num_truncated: number of all truncated rows.
        tokens: tokens of each text, if requested.
        timing: duration (s) of each stage in the service; of several ZeroMQ requests, those of the longest.
        vector_space: space of the vectors.
        parts: of each vector that is of a part of a text: row of the text, and offsets from and to in characters.
        sparse: sparse vector of each text, if requested.
        multi: vectors of the tokens of each text, if requested.
        nbytes: memory (bytes) of all vectors.
    """

    vectors: np.ndarray
    num_tokens: int
    truncated: list[int]
    num_truncated: int
    tokens: list[list[str]] | None = None
    timing: dict[str, float] | None = None
    vector_space: str | None = None
    parts: list[tuple[int, int, int]] | None = None
    sparse: list[SparseVector] | None = None
    multi: list[np.ndarray] | None = None
    nbytes: int = 0


class EncodingService:
    """Encodes texts for all routes.

    Args:
        client: client of the service, shared by all threads; its timeouts bound every call.
        async_client: client of the service for the event loop, with the same timeouts.
        tokenizer: same tokenizer as in the service.
        token_ids: converts input given as token ids.
        limiter: limits the number of running requests.
        health: health of the service.
        log: logger of the HTTP process.

    Attributes:
        models: the services of all models of the server, the first one first; they share limiter and health.
    """

    def __init__(
        self,
        config: ServerConfig,
        model: ModelConfig,
        client: BertClient,
        async_client: AsyncBertClient,
        tokenizer: Tokenizer,
        token_ids: TokenIds,
        limiter: ConcurrencyLimiter,
        health: HealthChecker,
        log: logging.Logger,
    ) -> None:
        self.config, self.client, self.limiter, self.health, self.log = config, client, limiter, health, log
        self.token_ids = token_ids
        self._async_client = async_client
        self.tokenizer = tokenizer
        self.model_name = public_name(config)
        self.models: list[EncodingService] = [self]
        self.token_level = config.pooling_strategy == PoolingStrategy.NONE
        self.dimensions = config.vector_size(model)
        self.outputs = config.outputs
        self._pooling = RequestPooling(config, model)
        self._spaces = config.vector_spaces(model)
        self.vector_space = config.default_space(model)
        self.quantizer = Quantizer(self._spaces, config.ranges)
        self.max_length = config.max_seq_len or model.max_tokens
        self.output_sizes = OutputSizes(config.pipeline, self.max_length)
        self._pads_to_max_length = config.max_seq_len is not None or config.fixed_embed_length

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores; empty if the server gives vectors."""
        return () if self.config.pipeline is None else self.config.pipeline.labels

    @property
    def compared(self) -> tuple[str, ...]:
        """Outputs of the model by which texts can be compared with a query."""
        return tuple(name for name in COMPARED if name in self.outputs and self.config.task == "embed")

    @property
    def row_bytes(self) -> int:
        """Maximum size (bytes) of the dense vectors of a text."""
        if self.token_level:
            return self.dimensions * self._number_bytes * self.max_length
        return self.dimensions * 4  # a request may ask for float32

    @property
    def pooled_row_bytes(self) -> int:
        """Maximum size (bytes) of the vectors of a text whose request has a pooling of its own."""
        return self._pooling.widest * 4

    @property
    def _number_bytes(self) -> int:
        return 2 if self.config.output_dtype == "float16" else 4

    def encode(
        self, texts: Any, is_tokenized: bool = False, show_tokens: bool = False, options: dict[str, Any] | None = None
    ) -> EncodingResult:
        """Encodes a list of texts, or of token lists. The caller holds a slot of the limiter.

        Args:
            options: keyword arguments of ``BertClient.encode``: normalize, prompt_name, prompt, dimensions, truncate,
                vector_space, long, embedding_type, outputs, pooling, pooling_layer; and the `RequestShare` share.

        Raises:
            BadRequest: ``texts`` is not a list.
            BodyTooLarge: the request exceeds a limit of the configuration.
            BertServingError: the client failed.
        """
        options = options or {}
        self._check(texts, options)
        timings: list[dict[str, float]] = []
        size, options = self._request_size(texts, options), _for_service(options)
        call = self.client._encode_in_detail(texts, is_tokenized, size, timings, self._check_outputs, **options)
        return self._result(call, timings, texts, show_tokens, options)

    async def encode_async(
        self, texts: Any, is_tokenized: bool = False, show_tokens: bool = False, options: dict[str, Any] | None = None
    ) -> EncodingResult:
        """Encodes a few texts, as `encode` does, in the event loop."""
        options = options or {}
        self._check(texts, options)
        timings: list[dict[str, float]] = []
        size, options = self._request_size(texts, options), _for_service(options)
        check = self._check_outputs
        call = await self._async_client._encode_in_detail(texts, is_tokenized, size, timings, check, **options)
        return self._result(call, timings, texts, show_tokens, options)

    async def close(self) -> None:
        """Closes the clients of all models. Calls that still wait raise `ClientClosedError`."""
        threads = (asyncio.to_thread(each.client.close) for each in self.models)
        await asyncio.gather(*threads, *(each._async_client.close() for each in self.models))

    def require_ranges(self, options: VectorOptions) -> None:
        """Checks that the embedding type of vectors with these options has its ranges.

        Raises:
            BadRequest: it needs ranges that the server does not have.
        """
        if problem := missing_ranges(self._spaces, options, self.dimensions):
            raise BadRequest(problem, "embedding_types")

    def _check(self, texts: Any, options: dict[str, Any]) -> None:
        if not isinstance(texts, list):
            hint = "; wrap it in a list" if isinstance(texts, str) else ""
            raise BadRequest(
                f"'texts' must be a list, received {json_type(texts)} ({truncate_repr(texts)}){hint}", "texts"
            )
        self._check_size(texts, options)

    def _result(
        self,
        call: Any,
        timings: list[dict[str, float]],
        texts: list[Any],
        show_tokens: bool,
        options: dict[str, Any],
    ) -> EncodingResult:
        self.health.record_success()
        sparse, multi = (None, None) if call.outputs is None else (call.outputs.sparse, call.outputs.multi)
        size, limit = call.embedding.nbytes, self.config.http_max_body
        if call.parts is not None and size > limit:
            raise BodyTooLarge(
                f"the vectors of {len(call.parts)} parts of texts have {size} bytes; the limit is {limit} "
                "(-http_max_body): send fewer or shorter texts per request"
            )
        return EncodingResult(
            call.embedding,
            call.num_tokens,
            sorted(call.truncated)[:MAX_TRUNCATED_ROWS],
            call.num_truncated,
            self._tokens(texts, options) if show_tokens else None,
            max(timings, key=lambda timing: timing["total"], default=None),
            call.vector_space,
            call.parts,
            sparse,
            multi,
            size if call.outputs is None else call.outputs.nbytes,
        )

    def _check_outputs(self, size: int) -> None:
        """Checks the size of the outputs that have arrived.

        Raises:
            BodyTooLarge: it exceeds the limit.
        """
        if size > self.config.http_max_body:
            raise BodyTooLarge(
                f"the vectors of the texts have more than {self.config.http_max_body} bytes (-http_max_body): send "
                "fewer or shorter texts per request, or ask for fewer 'outputs'"
            )

    def _request_size(self, texts: list[Any], options: dict[str, Any]) -> int:
        """Returns the number of texts, or pairs of texts, in a ZeroMQ request.

        If the sender has limits, the texts are one request, which is accepted or refused as a whole. Otherwise the
        requests in flight hold a small part of the largest outputs.
        """
        share: RequestShare | None = options.get("share")
        if share is not None and share.is_limited:
            self._check_undivided(texts, options)
            return len(texts) or 1
        if options.get("outputs"):
            return self.output_sizes.batch_size(texts, options, self.config.http_max_body // 4)
        return _chunk_size(texts, options)

    def _check_undivided(self, texts: list[Any], options: dict[str, Any]) -> None:
        """Checks the largest outputs of texts in one request, all of which arrive before their size can be checked.

        Raises:
            BodyTooLarge: they exceed the limit.
        """
        size = self.output_sizes.of_texts(texts, options) if options.get("outputs") else 0
        if size > self.config.http_max_body:
            raise BodyTooLarge(
                f"the vectors of {len(texts)} texts may have {size} bytes; the limit is {self.config.http_max_body} "
                "(-http_max_body), and a request of a name with limits is not divided: send fewer or shorter texts per "
                "request, or ask for fewer 'outputs'"
            )

    def num_tokens(self, texts: list[Any], options: dict[str, Any]) -> np.ndarray:
        """Returns the number of tokens of each text in the input of the model, int32 ``[n]``."""
        return self._tokenize(texts, options).lengths

    def _tokenize(self, texts: list[Any], options: dict[str, Any]) -> Tokenized:
        return self.tokenizer.encode(texts, self.find_prompt(options), options.get("pairs"))

    def _tokens(self, texts: list[Any], options: dict[str, Any]) -> list[list[str]]:
        """Returns the tokens of each row of the response."""
        long = str(options.get("long"))
        if long not in PART_MODES:
            return self.tokenizer.tokens(self._tokenize(texts, options))
        prompt = self.find_prompt(options)
        tokenized = tokenize_mode(self.tokenizer, texts, long, prompt, options.get("pairs") is None)
        return shown_tokens(self.tokenizer, tokenized, long)

    def find_prompt(self, options: dict[str, Any]) -> str | None:
        """Returns the text that ``options`` put before each text; None for that of the server.

        Raises:
            BadRequest: the model has no prompt of this name, or both fields are set.
        """
        name = options.get("prompt_name")
        if name is None:
            return options.get("prompt")
        if "prompt" in options:
            raise BadRequest("'prompt_name' and 'prompt' exclude each other: send only one of them", "prompt")
        prompts = {} if self.config.pipeline is None else self.config.pipeline.prompts
        if name not in prompts:
            raise BadRequest(
                f"'prompt_name' {truncate_repr(name)} is unknown; the prompts of this model: "
                f"{', '.join(prompts) or 'none'}. Set one of them, or the text itself as 'prompt'",
                "prompt_name",
            )
        return prompts[name]

    def not_ready_reason(self) -> str:
        """Returns why requests would fail, or an empty string."""
        return "the server is stopping" if self.limiter.closed else self.health.not_ready_reason()

    def _width(self, options: dict[str, Any]) -> int:
        """Returns the dimensions of vectors with these options before they are cut.

        Raises:
            BadRequest: the server does not have the pooling.
        """
        name, layers = options.get("pooling"), options.get("pooling_layer")
        if name is None and layers is None:
            return self.dimensions
        try:
            found = self._pooling.find(name, layers)
        except InvalidRequest as error:
            raise BadRequest(str(error), "pooling" if layers is None else "pooling_layer") from None
        return self.dimensions if found is None else found.width

    def _check_size(self, texts: list[Any], options: dict[str, Any]) -> None:
        if len(texts) > self.config.max_request_size:
            raise BodyTooLarge(
                f"the request has {len(texts)} texts; the limit is {self.config.max_request_size} "
                "(-max_request_size): split it into several requests"
            )
        if "dense" not in options.get("outputs", "dense"):
            return
        rows = len(texts)
        if self.token_level:
            width = self.max_length
            if not self._pads_to_max_length:
                # Vectors are as long as the longest text, which has no more tokens than characters.
                width = min(width, 3 + max((len(text) for text in texts if isinstance(text, (str, list))), default=0))
            rows *= width
        width = self._width(options)
        size = rows * width * self._number_bytes
        if (embedding_type := options.get("embedding_type")) is not None:
            size = rows * row_bytes(embedding_type, width)
        if size > self.config.http_max_body:
            raise BodyTooLarge(
                f"the vectors of {len(texts)} texts have {size} bytes; the limit is {self.config.http_max_body} "
                "(-http_max_body): send fewer texts per request"
            )


def _chunk_size(texts: list[Any], options: dict[str, Any]) -> int:
    """Returns the number of texts, or pairs of texts, in a ZeroMQ request for dense vectors or scores."""
    if not options.get("pairs"):
        return CHUNK_SIZE
    return max(1, min(CHUNK_SIZE, PAIR_CHARACTERS // max(1, len(texts[0][0]))))


def _for_service(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options as the client takes them."""
    share: RequestShare | None = options.get("share")
    return options if share is None else {**options, "share": share.option}
