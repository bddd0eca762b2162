"""Applies a model folder with other outputs than dense vectors to the configuration."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import msgspec

from ..errors import ConfigError
from ..model.config import ModelConfig
from ..model.errors import ModelConfigError
from ..model.json_files import read_object
from ..model.masked_lm import read_masked_lm
from ..model.pipeline import SentencePipeline
from ..model.pooling import PoolingStrategy
from ..model.token_head_files import read_folder_heads
from ..model.token_heads import MaskedLmHead, MultiHead
from .folder_length import take_length
from .server_config import ServerConfig

#: Strategies that do not start from the vectors of tokens of one layer.
_WITHOUT_HEADS = (PoolingStrategy.NONE, PoolingStrategy.CLS_POOLED)
#: Options of dense vectors.
_OF_DENSE = (
    "pooling_strategy",
    "pooling_layer",
    "normalize",
    "dimensions",
    "fixed_embed_length",
    "quantization_ranges",
    "drift_reference",
)


def apply_token_folder(
    config: ServerConfig, folder: SentencePipeline, log: logging.Logger
) -> tuple[ServerConfig, ModelConfig]:
    """Returns the configuration of a server without dense vectors, and the sizes and files of its model.

    Raises:
        ModelError: the head is not computed.
        ConfigError: an option is one for dense vectors.
    """
    named = next((name for name in _OF_DENSE if name in config.given), None)
    if named is not None:
        raise ConfigError(
            f"-{named} is for dense vectors, and the model folder {config.model_dir} has {', '.join(folder.outputs)} "
            f"ones only: remove -{named}"
        )
    if config.deterministic:
        raise ConfigError(
            f"-deterministic does not cover the {', '.join(folder.outputs)} vectors of {config.model_dir}: remove it"
        )
    if config.mask_cls_sep and folder.multi is not None:
        raise ConfigError(f"-mask_cls_sep: masked tokens expand the queries of {config.model_dir}: remove the option")
    strategy = PoolingStrategy.SPLADE if folder.multi is None else PoolingStrategy.COLBERT
    config = replace(config, pipeline=folder, pooling_strategy=strategy, pooling_layer=(-1,))
    model = config.read_model()
    if folder.multi is not None:
        _check_multi(folder.multi, model)
    else:
        assert isinstance(folder.sparse, MaskedLmHead)
        head = read_masked_lm(model, read_object(Path(model.config_path)), folder.sparse)
        config = replace(config, pipeline=msgspec.structs.replace(folder, sparse=head))
    return take_length(config, folder, model.max_tokens, log), model


def _check_multi(head: MultiHead, model: ModelConfig) -> None:
    inputs = head.tensors["0/weight"].shape[1]
    if inputs != model.hidden_size:
        raise ModelConfigError(
            f"{head.tensors['0/weight'].weights}: Dense takes {inputs} numbers, but the encoder gives "
            f"{model.hidden_size}; the two belong to different models"
        )
    for role, frame in head.frames.items():
        longest = max(frame.max_length or 0, frame.expansion_length)
        if longest > model.max_tokens:
            raise ModelConfigError(
                f"{model.model_dir}: a {role} has up to {longest} tokens, but the model has {model.max_tokens} "
                "positions; copy the folder again"
            )


def take_folder_heads(config: ServerConfig, model: ModelConfig, log: logging.Logger) -> ServerConfig:
    """Returns the configuration with the heads in files of the model folder beside its modules, as that of BGE-M3.

    Heads work on the last layer. With another one, or with a pooling that needs no vectors of tokens, they are left
    out, and a warning names them.

    Raises:
        ModelError: the files are not valid.
    """
    heads = read_folder_heads(Path(config.settings_dir), model)
    if not heads:
        return config
    last = model.num_hidden_layers - 1
    layers = [layer % model.num_hidden_layers for layer in config.pooling_layer]
    if layers != [last] or config.pooling_strategy in _WITHOUT_HEADS or config.tuned_model_dir is not None:
        log.warning(
            "the heads of %s (%s) are left out: they need vectors of tokens of the last layer of its own model",
            config.model_dir,
            ", ".join(heads),
        )
        return config
    assert config.pipeline is not None
    return replace(config, pipeline=msgspec.structs.replace(config.pipeline, **heads))
