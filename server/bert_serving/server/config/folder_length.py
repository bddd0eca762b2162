"""Applies the length of a model folder to the configuration."""

from __future__ import annotations

import logging
from dataclasses import replace

from ..model.pipeline import SentencePipeline
from .server_config import ServerConfig


def take_length(config: ServerConfig, folder: SentencePipeline, max_tokens: int, log: logging.Logger) -> ServerConfig:
    """Returns the configuration with the longest sequence of the folder, unless the user gave another.

    Args:
        max_tokens: most tokens of a sequence of the model.
    """
    length = min(folder.max_seq_length or max_tokens, max_tokens)
    if "max_seq_len" not in config.given:
        return replace(config, max_seq_len=length)
    if (config.max_seq_len or max_tokens) != length:
        log.warning("-max_seq_len %s is set; the folder wants %d", config.max_seq_len, length)
    return config
