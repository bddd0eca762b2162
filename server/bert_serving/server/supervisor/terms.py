"""Computes the terms on which machines join a server, on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..config.machine_options import OWN_OPTIONS
from ..config.models import public_name
from ..config.server_config import ServerConfig
from ..engines.cpu_info import describe_processor
from ..errors import ConfigError
from ..ipc.joining import JOIN_PROTOCOL, FrontTerms, ModelTerms, Terms
from ..model.config import ModelConfig
from ..version import __version__
from .placement import WorkerPlacement
from .vector_space import EQUAL_ENGINES, assumed_placements, precision_of

#: Options that the front tells to the machines if they are given, beside the dtype. The model folder has the others.
SHARED_OPTIONS = (
    "ckpt_name", "config_name", "task", "max_seq_len", "do_lower_case", "pooling_layer",
    "pooling_strategy", "normalize", "dimensions",
    "mask_cls_sep", "no_special_token", "no_position_embeddings", "fp16", "deterministic", "xla", "fixed_embed_length",
)  # fmt: skip


def make_terms(
    config: ServerConfig, model: ModelConfig, model_digest: str, placements: Sequence[WorkerPlacement]
) -> Terms:
    """Returns the terms of a server or of a machine."""
    precision = sorted({precision_of(config, each.dtype) for each in assumed_placements(config, placements)})
    space = "+".join([config.vector_spaces(model).default, *config.output_spaces.values()])
    bits = _describe_bits() if config.deterministic else ""
    return Terms(JOIN_PROTOCOL, __version__, model_digest, space, precision, bits)


def _describe_bits() -> str:
    """Returns what the last bits of vectors depend on: the processor, and the versions of what computes."""
    libraries = ", ".join(f"{name} {_version(name)}" for name in ("onnxruntime", "numpy"))
    return f"{describe_processor()}, bert-serving-server {__version__}, {libraries}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def model_terms(
    config: ServerConfig, model: ModelConfig, model_digest: str, placements: Sequence[WorkerPlacement]
) -> ModelTerms:
    """Returns what a server tells about a model to machines before they join."""
    options = {
        name: value for name, value in config.public().items() if name in SHARED_OPTIONS and name in config.given
    }
    options["dtype"] = assumed_placements(config, placements)[0].dtype
    engines = {each.engine for each in assumed_placements(config, placements)}
    if len(engines) == 1 and not engines & {*EQUAL_ENGINES, "auto"}:
        options["engine"] = engines.pop()
    return ModelTerms(public_name(config), make_terms(config, model, model_digest, placements), options)


def front_terms(config: ServerConfig, first: ModelTerms, further: Sequence[ModelTerms] = ()) -> FrontTerms:
    """Returns what a server tells to machines before they join."""
    assert config.result_join_port is not None
    port, timeout = config.result_join_port, config.join_timeout
    return FrontTerms(first.terms, first.options, port, timeout, first.name, list(further))


def machine_config(own: ServerConfig, front: FrontTerms | ModelTerms) -> ServerConfig:
    """Returns the configuration of a machine for a model: its own options, and those of the front that shape vectors.

    Raises:
        ConfigError: the front names other options.
    """
    unknown = sorted(front.options.keys() - {*SHARED_OPTIONS, "dtype", "engine"})
    if unknown:
        raise ConfigError(
            f"the front (version {front.terms.version}) has options that machines of version {__version__} do not "
            f"take from it: {', '.join(unknown)}; install the same version of bert-serving-server on both"
        )
    options: dict[str, Any] = dict(front.options)
    if "engine" in own.given:
        options.pop("engine", None)
    values = {name: getattr(own, name) for name in OWN_OPTIONS}
    return ServerConfig(**{**values, **options}, given=own.given | options.keys(), name=front.name)
