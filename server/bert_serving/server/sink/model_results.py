"""What the sink keeps for each model: unfinished jobs, vectors that may be needed again, drift."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..config.server_config import ServerConfig
from ..ipc.process_context import ProcessContext
from ..model.quantization import Quantizer
from ..monitoring.drift import Reference, VectorDrift
from .assembly import ResultAssembler
from .result_receiver import ResultCheck
from .token_outputs import OutputWriter, read_tokens
from .vector_cache import VectorCache


class ModelResults:
    """Holds the results of one model.

    Args:
        publish: called with an identity and the frames of its reply.
        clock: monotonic seconds.

    Attributes:
        check: what its vectors are.
        drift: None without ``-drift_reference``.
    """

    def __init__(
        self,
        process: ProcessContext,
        publish: Callable[[bytes, list[Any]], None],
        log: logging.Logger,
        clock: Callable[[], float],
    ) -> None:
        config, model = process.config, process.model
        width = output_width(config, model.max_tokens)
        quantizer = Quantizer(config.vector_spaces(model), config.ranges)
        outputs = OutputWriter(read_tokens(process))
        self.check = check = ResultCheck.of(config, model)
        self.assembler = ResultAssembler(width, publish, log, clock, quantizer.apply, check.sent_width, outputs)
        self.cache = VectorCache(config.cache_mb * 2**20, check.sent_width, check.dtype, check.is_token_level)
        reference = process.options["drift"]
        self.drift = VectorDrift(Reference.from_dict(reference), config.drift_window) if reference else None


def output_width(config: ServerConfig, max_positions: int) -> int | None:
    """Returns the tokens per sequence in token-level output, or None for the length of a request's longest sequence."""
    if config.fixed_embed_length and config.max_seq_len is None:
        return max_positions
    return config.max_seq_len
