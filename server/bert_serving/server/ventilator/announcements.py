"""Announces the texts of a job to the sink, with their tokens and the metadata of the reply."""

from __future__ import annotations

import json
import logging
from typing import Any

from ..config.server_config import ServerConfig
from ..ipc import commands
from ..ipc.commands import u64
from ..ipc.messages import Command
from ..model.pooling import PoolingStrategy
from ..scheduling.jobs import NO_OPTIONS, Job, JobChunk, token_width
from ..tokenization.part_modes import shown_tokens
from ..tokenization.tokenizer import Tokenized, Tokenizer

#: Largest number of truncated texts that a reply lists.
MAX_TRUNCATED = 1000


class Announcer:
    """Numbers jobs, and creates their JOB_CHUNK commands.

    Args:
        positions: number of positions of the model.
        first_id: lower bound of the numbers.
        step: difference of two numbers.
    """

    def __init__(
        self,
        config: ServerConfig,
        tokenizer: Tokenizer,
        positions: int,
        first_id: int,
        log: logging.Logger,
        step: int = 1,
    ) -> None:
        self._tokenizer, self._positions, self._log = tokenizer, positions, log
        self._needs_width = config.max_seq_len is None and config.pooling_strategy == PoolingStrategy.NONE
        self._shows_tokens, self._logs_tokens = config.show_tokens_to_client, config.log_settings[0] == "debug"

        self._last_id, self._step = first_id, step

    def assign_id(self, job: Job) -> None:
        """Gives a job the next number."""
        self._last_id += self._step
        job.id = self._last_id

    def add_tokens(self, chunk: JobChunk) -> None:
        """Adds the tokens of a chunk to the reply and to the log, if the options of the server ask for them."""
        if self._logs_tokens:
            self._log_tokens(chunk.tokenized)
        if self._shows_tokens:
            tokens = shown_tokens(self._tokenizer, chunk.tokenized, chunk.job.options.long)
            chunk.tokens_json = json.dumps(tokens).encode()

    def command(self, chunk: JobChunk, is_last: bool) -> Command:
        """Returns the JOB_CHUNK command of a chunk. That of the last chunk has metadata, and completes the job."""
        job, options = chunk.job, chunk.job.options
        row = u64(chunk.first_row)
        frames = [u64(job.id), u64(job.size), job.identity, job.request_id, row, chunk.tokens_json, chunk.parts_bytes]
        if not is_last:
            return [commands.JOB_CHUNK, *frames]
        num_truncated = job.num_truncated
        if options is NO_OPTIONS and not num_truncated and not self._needs_width:  # as most requests
            return [commands.JOB_CHUNK, *frames, b"{}"]
        metadata: dict[str, Any] = {}
        if num_truncated:
            metadata = {"num_truncated": num_truncated, "truncated": job.truncated[:MAX_TRUNCATED]}
        if self._needs_width:
            metadata["width"] = token_width(job.chunks, self._positions)
        if options.dimensions is not None:
            metadata["dimensions"] = options.dimensions
        if options.vector_space:
            metadata["vector_space"] = options.vector_space
        if options.wants_timing:
            metadata["times"] = [job.received_at, job.tokenized_at]
        if options.wants_num_tokens:
            metadata["num_tokens"] = sum(len(each.tokenized.input_ids) for each in job.chunks)
        if options.long:
            metadata["long"] = options.long
        if options.makes_unit:
            metadata["makes_unit"] = True
        if options.type_code:
            metadata["type_code"] = options.type_code
        if options.outputs:
            metadata["outputs"] = options.outputs
        if options.columns:
            metadata["columns"] = options.columns
        if options.range_space:
            metadata["range_space"] = options.range_space
        return [commands.JOB_CHUNK, *frames, json.dumps(metadata).encode() if metadata else b"{}"]

    def _log_tokens(self, tokenized: Tokenized) -> None:
        start = 0
        for tokens, length in zip(self._tokenizer.tokens(tokenized), tokenized.lengths.tolist(), strict=True):
            rows = slice(start, start + length)
            mask = [1] * length if tokenized.mask is None else tokenized.mask[rows]
            types = [0] * length if tokenized.type_ids is None else tokenized.type_ids[rows]
            start += length
            self._log.debug("tokens: %s", " ".join(tokens))
            self._log.debug("input_ids: %s", " ".join(map(str, tokenized.input_ids[rows])))
            self._log.debug("input_mask: %s", " ".join(map(str, mask)))
            self._log.debug("input_type_ids: %s", " ".join(map(str, types)))
