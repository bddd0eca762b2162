"""How many bytes the answer to a request takes, known before it is computed."""

from __future__ import annotations

from ..config.server_config import ServerConfig
from ..errors import TooLarge
from ..model.config import ModelConfig
from ..model.pooling import PoolingStrategy, dimensions
from ..scheduling.jobs import Part, token_width


class ResultLimit:
    """Refuses requests whose vectors would exceed ``-result_memory``: the sink holds them as one array."""

    def __init__(self, config: ServerConfig, model: ModelConfig) -> None:
        self._most = config.result_memory
        self._row = dimensions(config.pooling_strategy, model.hidden_size, len(config.pooling_layer))
        self._row *= 2 if config.fp16 else 4
        self._token_level = config.pooling_strategy == PoolingStrategy.NONE
        self._width = config.max_seq_len
        self._positions = model.max_position_embeddings
        if config.fixed_embed_length and self._width is None:
            self._width = self._positions

    def check(self, part: Part) -> None:
        """Checks a request as far as it is known when this part of it is tokenized.

        A request of token vectors is as wide as its longest text, so it may be a later part that makes it too large.

        Raises:
            TooLarge: the vectors of the whole request would take too many bytes.
        """
        size, width = part.job.size, 1
        if self._token_level:
            width = self._width or token_width([part], self._positions)
        needed = size * width * self._row
        if needed > self._most:
            tokens = f" of {width} tokens each" if self._token_level else ""
            raise TooLarge(
                f"the vectors of {size} texts{tokens} would take {needed} bytes; the limit is {self._most} "
                f"(-result_memory): send fewer texts at a time"
            )
