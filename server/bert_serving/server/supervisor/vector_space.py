"""Computes the digest of all that shapes a vector: two servers with equal digests give vectors of one space.

Prompts are left out, because queries and passages of one space have different prompts. So is the longest length, which
changes the vectors of longer texts only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..config.server_config import ServerConfig
from ..engines import NAMES
from ..engines.base import Device
from ..model.cache import Cache, CacheError
from ..model.config import ModelConfig
from ..model.digest import model_digest, sha256_of
from ..model.pipeline import Dense, LayerNorm, Module
from ..model.token_heads import describe, own_files
from ..model.vector_options import split_tail
from ..model.vector_space import digest_of, name_space, pooling_content
from ..tokenization.vocabulary import read_vocabulary
from .placement import WorkerPlacement

#: Part of every digest. Increment it when vectors of a new version differ from those of the last one.
FORMAT = 1
#: Engines that compute the same vectors.
EQUAL_ENGINES = frozenset(NAMES) - {"zeros"}


def vector_digest(config: ServerConfig, model: ModelConfig, placements: Sequence[WorkerPlacement]) -> str:
    """Returns the digest of :func:`vector_content`."""
    return digest_of(vector_content(config, model, placements))


def vector_content(config: ServerConfig, model: ModelConfig, placements: Sequence[WorkerPlacement]) -> str:
    """Returns all that shapes a vector as JSON, equal for the same folder and options on each machine.

    Reads all weights, unless the cache of prepared models has their digest.

    Raises:
        ModelError: a file of the model is missing.
        OSError: a file is unreadable.
    """
    placements = assumed_placements(config, placements)
    pipeline = config.pipeline
    layers = [layer % model.num_hidden_layers for layer in config.pooling_layer]
    body = () if pipeline is None else split_tail(pipeline.modules)[0]
    content = {
        "format": FORMAT,
        "weights": _weights_digest(config, model),
        "tokenizer": _tokenizer(config, model),
        **pooling_content(config.pooling_strategy, () if pipeline is None else pipeline.pooling, layers),
        "modules": [_module(module) for module in body],
        "mask_cls_sep": config.mask_cls_sep,
        "no_special_token": config.no_special_token,
        "no_position_embeddings": config.no_position_embeddings,
        "precision": sorted({precision_of(config, placement.dtype) for placement in placements}),
        "engines": sorted({placement.engine for placement in placements} - EQUAL_ENGINES - {"auto"}),
    }
    return json.dumps(content, sort_keys=True)


def output_spaces(config: ServerConfig) -> dict[str, str]:
    """Returns the spaces of other outputs than dense vectors, by output.

    Args:
        config: has the digest of its vectors.

    Raises:
        OSError: a file with the weights of a head is unreadable.
    """
    heads = {} if config.pipeline is None else config.pipeline.token_heads
    return {
        # The digest of the vectors has that of the checkpoint.
        name: name_space([config.vector_digest, name, describe(head), [sha256_of(path) for path in own_files(head)]])
        for name, head in heads.items()
    }


def assumed_placements(config: ServerConfig, placements: Sequence[WorkerPlacement]) -> Sequence[WorkerPlacement]:
    """Returns the placements of this server; without workers, one with the options that all its machines share."""
    return placements or [WorkerPlacement(Device(), config.engine, config.dtype)]


def _weights_digest(config: ServerConfig, model: ModelConfig) -> str:
    try:
        return Cache(config.graph_tmp_dir or "").model_digest(model)
    except CacheError:  # an engine that needs the folder reports it
        return model_digest(model, None)


def _tokenizer(config: ServerConfig, model: ModelConfig) -> list[Any]:
    pipeline = config.pipeline
    lower_first = pipeline is not None and pipeline.lower_case
    settings: list[Any] = [sha256_of(model.vocab_path), config.do_lower_case, lower_first]
    if not model.vocab_path.endswith(".json"):
        vocabulary = read_vocabulary(model.vocab_path)
        assert vocabulary is not None
        settings += [vocabulary.lower_case, vocabulary.strip_accents, vocabulary.split_cjk]
        settings += ["library"] if pipeline is not None and pipeline.has_modules else []
    return settings


def _module(module: Module) -> list[Any]:
    if isinstance(module, Dense | LayerNorm) and module.checkpoint_format:  # a tensor among the weights of the model
        kind = module.activation if isinstance(module, Dense) else module.eps
        return [type(module).__name__, *module.names, module.has_bias, kind]
    if isinstance(module, Dense):
        return ["Dense", sha256_of(module.weights), module.has_bias, module.activation]
    if isinstance(module, LayerNorm):
        return ["LayerNorm", sha256_of(module.weights)]
    return [type(module).__name__, getattr(module, "dimensions", None)]


def precision_of(config: ServerConfig, dtype: str) -> str:
    """Returns the class of precision: fp32, 16 bit or int8."""
    if dtype == "int8":
        return "int8"
    return "16 bit" if config.fp16 or dtype in ("bf16", "fp16") else "fp32"
