"""Limits the size of a result before it is computed."""

from __future__ import annotations

from ..config.memory import default_memory
from ..config.server_config import ServerConfig
from ..errors import TooManyTexts
from ..model.config import ModelConfig
from ..model.pooling import PoolingStrategy
from ..scheduling.jobs import JobChunk, token_width

#: Memory of the offsets and the weight of a part of a text in the sink.
PART_BYTES = 16


class ResultLimit:
    """Rejects requests whose vectors would exceed ``-result_memory``: the sink holds a result as one array.

    Attributes:
        max_bytes: value of ``-result_memory``.
        positions: number of positions of the model.
    """

    def __init__(self, config: ServerConfig, model: ModelConfig) -> None:
        self.max_bytes = config.result_memory or default_memory()
        self._row_bytes = config.vector_size(model)
        self._row_bytes *= 2 if config.output_dtype == "float16" else 4
        self._token_level = config.pooling_strategy == PoolingStrategy.NONE
        self._fixed_width = config.max_seq_len
        self.positions = model.max_tokens
        self._heads = {} if config.pipeline is None else config.pipeline.token_heads
        if config.fixed_embed_length and self._fixed_width is None:
            self._fixed_width = self.positions

    def check(self, chunk: JobChunk) -> int:
        """Returns the bytes of a request's result after one of its chunks is tokenized.

        Token vectors are padded to the longest text of the request, so a later chunk may exceed the limit.

        Raises:
            TooManyTexts: the vectors of the whole request would exceed the limit.
        """
        size, width = chunk.job.size, 1
        options, parts = chunk.job.options, chunk.tokenized.parts
        # The sink converts the rows of a request with an embedding type as they arrive, but means at the end.
        row_bytes = options.row_bytes if options.row_bytes and not options.type_code else self._row_bytes
        row_bytes = options.sent_bytes or row_bytes
        row_bytes += 0 if parts is None else PART_BYTES
        if self._token_level:
            width = self._fixed_width or token_width([chunk], self.positions)
        needed = size * width * row_bytes
        if options.sent_bytes:  # the finished vectors are beside the rows of workers
            needed += size * options.row_bytes
        if parts is not None and options.long == "mean":
            num_texts = int(parts[-1, 0]) + 1  # the means are beside the vectors of the parts
            needed += num_texts * (row_bytes + (options.row_bytes if options.type_code else 0))
        if options.outputs:
            needed = (needed if "dense" in options.outputs else 0) + self._bytes_of_outputs(chunk)
        if needed > self.max_bytes:
            kind = "texts" if parts is None else "parts of texts"
            tokens = f" of {width} tokens each" if self._token_level else ""
            raise TooManyTexts(
                f"the vectors of {size} {kind}{tokens} would take {needed} bytes; the limit is {self.max_bytes} "
                f"(-result_memory): send fewer texts at a time"
            )
        return needed

    def _bytes_of_outputs(self, chunk: JobChunk) -> int:
        """Returns the most bytes of the other outputs of a request; the sink copies them once, into its reply."""
        job = chunk.job
        tokens = sum(len(each.tokenized.input_ids) for each in (*job.chunks, chunk))
        return sum(2 * self._heads[name].max_bytes(job.size, tokens) for name in job.options.outputs if name != "dense")
