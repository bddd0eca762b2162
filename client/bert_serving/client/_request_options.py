"""Options of one request, and the versions of servers that know them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ._arguments import whole_number
from ._version import __version__
from .errors import OptionError, VersionMismatchError
from .protocol import (
    COMPATIBLE_VERSION,
    EMBEDDING_TYPES,
    LONG_OF_TRUNCATE,
    MAX_LAYERS,
    MAX_MODEL_NAME,
    MAX_PROMPT_LENGTH,
    MODELS_VERSION,
    OPTIONS_VERSION,
    OUTPUTS,
    OUTPUTS_VERSION,
    PART_MODES,
    PARTS_VERSION,
    POOLING_VERSION,
    SCORES_VERSION,
    TYPES_VERSION,
    Texts,
)

#: Values of the option ``long``: what happens to texts longer than the server's ``max_seq_len``.
LongMode: TypeAlias = Literal["cut", "error", "mean", "chunks", "late"]

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    class VectorOptions(TypedDict, total=False):
        """Options of `BertClient.encode` that a request carries, but for ``long``."""

        normalize: bool | None
        prompt_name: str | None
        prompt: str | None
        dimensions: int | None
        truncate: bool | None
        vector_space: str | None
        raw_scores: bool
        embedding_type: str | None
        pooling: str | None
        pooling_layer: int | Sequence[int] | None

    class EncodeOptions(VectorOptions, total=False):
        """The same with ``long``, for one vector per text."""

        long: Literal["cut", "error", "mean"] | None

    class AllOptions(VectorOptions, total=False):
        """The same with every value of ``long``."""

        long: LongMode | None

    class OutputOptions(AllOptions, total=False):
        """The same with several outputs."""

        outputs: Sequence[str] | None

    class ProxyOptions(OutputOptions, total=False):
        """Options of `_encode_in_detail`: ``pairs`` and ``share`` of the options frame too."""

        pairs: bool | None
        share: str | None


#: Options that a server knows from another version on than ``OPTIONS_VERSION``.
_VERSIONS = {
    "pairs": SCORES_VERSION,
    "raw_scores": SCORES_VERSION,
    "long": PARTS_VERSION,
    "embedding_type": TYPES_VERSION,
    "model": MODELS_VERSION,
    "outputs": OUTPUTS_VERSION,
    "pooling": POOLING_VERSION,
    "pooling_layer": POOLING_VERSION,
}


def given_options(
    normalize: bool | None,
    prompt_name: str | None,
    prompt: str | None,
    dimensions: int | None,
    truncate: bool | None,
    vector_space: str | None,
    raw_scores: bool,
    long: LongMode | None,
    embedding_type: str | None,
    outputs: Sequence[str] | None = None,
    pooling: str | None = None,
    pooling_layer: int | Sequence[int] | None = None,
) -> OutputOptions:
    """Returns the arguments of a call as the options of its requests."""
    return {
        "normalize": normalize,
        "prompt_name": prompt_name,
        "prompt": prompt,
        "dimensions": dimensions,
        "truncate": truncate,
        "vector_space": vector_space,
        "raw_scores": raw_scores,
        "long": long,
        "embedding_type": embedding_type,
        "outputs": outputs,
        "pooling": pooling,
        "pooling_layer": pooling_layer,
    }


def request_options(
    is_tokenized: bool,
    normalize: bool | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    truncate: bool | None = None,
    vector_space: str | None = None,
    pairs: bool | None = None,
    raw_scores: bool = False,
    long: str | None = None,
    embedding_type: str | None = None,
    share: str | None = None,
    outputs: Sequence[str] | None = None,
    pooling: str | None = None,
    pooling_layer: int | Sequence[int] | None = None,
) -> dict[str, Any]:
    """Returns the options that differ from those of the server, ready for JSON.

    Args:
        share: name of the sender, with the proof of the HTTP server.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """
    options: dict[str, Any] = {}
    if normalize is not None:
        options["normalize"] = _switch("normalize", normalize, " or None")
    for name, value in (("prompt_name", prompt_name), ("prompt", prompt)):
        if value is None:
            continue
        if not isinstance(value, str):
            raise OptionError(f"{name} must be str, but is {type(value).__name__} ({value!r})")
        if is_tokenized:
            raise OptionError(f"{name} is put before texts, but is_tokenized=True sends token lists; omit {name}")
        options[name] = value
    if prompt_name is not None and prompt is not None:
        raise OptionError(f"prompt_name={prompt_name!r} and prompt exclude each other; pass only one of them")
    if prompt is not None and len(prompt) > MAX_PROMPT_LENGTH:
        raise OptionError(f"prompt has {len(prompt)} characters; the limit is {MAX_PROMPT_LENGTH}; shorten it")
    if dimensions is not None:
        options["dimensions"] = whole_number("dimensions", dimensions, 1)
    options |= _about_long(truncate, long)
    if vector_space is not None:
        options["vector_space"] = validate_space(vector_space)
    if pairs is not None:
        options["pairs"] = pairs
    if _switch("raw_scores", raw_scores):
        options["raw_scores"] = True
    if embedding_type is not None:
        if embedding_type not in EMBEDDING_TYPES:
            raise OptionError(f"embedding_type must be one of {', '.join(EMBEDDING_TYPES)}, but is {embedding_type!r}")
        options["embedding_type"] = embedding_type
    if share is not None:
        options["share"] = share
    if outputs is not None:
        options["outputs"] = _about_outputs(outputs, long)
    if pooling is not None or pooling_layer is not None:
        options |= _about_pooling(pooling, pooling_layer)
    return options


def _about_pooling(pooling: str | None, layers: int | Sequence[int] | None) -> dict[str, Any]:
    """Returns the options for a pooling of the request. The server knows which strategies and layers it has."""
    options: dict[str, Any] = {}
    if pooling is not None:
        if not isinstance(pooling, str):
            raise OptionError(
                f"pooling must be the name of a strategy, such as 'CLS_TOKEN', or None, but is "
                f"{type(pooling).__name__} ({pooling!r})"
            )
        options["pooling"] = pooling
    if layers is not None:
        found = [layers] if isinstance(layers, (int, np.integer)) else layers
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise OptionError(
                f"pooling_layer must be a layer, a list of layers, or None, but is {type(layers).__name__} ({layers!r})"
            )
        # A tuple, because calls with equal options share a frame.
        options["pooling_layer"] = tuple(whole_number("pooling_layer", layer, -MAX_LAYERS) for layer in found)
        if not 0 < len(options["pooling_layer"]) <= MAX_LAYERS:
            raise OptionError(f"pooling_layer must name 1 to {MAX_LAYERS} layers, but is {layers!r}; omit it for all")
    return options


def _about_outputs(outputs: Sequence[str], long: str | None) -> tuple[str, ...]:
    """Returns the names of outputs. The server knows which of them it has."""
    names = ", ".join(map(repr, OUTPUTS))
    if isinstance(outputs, str) or not isinstance(outputs, Sequence) or not outputs:
        raise OptionError(f"outputs must be a list of some of {names}, but is {type(outputs).__name__} ({outputs!r})")
    for name in outputs:
        if name not in OUTPUTS:
            raise OptionError(f"outputs must name some of {names}, but has {name!r}")
    if len(set(outputs)) < len(outputs):
        raise OptionError(f"outputs must name each kind of vectors once, but is {list(outputs)}")
    if long in PART_MODES:
        raise OptionError(f"long={long!r} is for dense vectors alone; omit outputs, or omit long")
    return tuple(outputs)  # calls with equal options share a frame


def _about_long(truncate: bool | None, long: str | None) -> dict[str, Any]:
    """Returns the options for texts that are too long."""
    if truncate is not None:
        same = LONG_OF_TRUNCATE[_switch("truncate", truncate, " or None")]
        if long is not None and long != same:
            raise OptionError(f"truncate={truncate} is long={same!r}, but long is {long!r}; pass only one of them")
        long = same
    if long in (None, "cut"):
        return {}
    if long == "error":
        return {"truncate": False}
    if long not in PART_MODES:
        names = ", ".join(map(repr, ("cut", "error", *PART_MODES)))
        raise OptionError(f"long must be one of {names}, or None, but is {type(long).__name__} ({long!r})")
    return {"long": long}


def add_pairs(options: dict[str, Any], texts: Texts) -> dict[str, Any]:
    """Returns the options of a request with these texts, which says whether they are pairs."""
    return {**options, "pairs": True} if isinstance(texts[0], tuple) else options


def validate_space(value: Any) -> str:
    """Returns an expected vector space.

    Raises:
        OptionError: it is not a ``str``, or empty.
    """
    if not isinstance(value, str) or not value:
        raise OptionError(
            f"vector_space must be a str as the property vector_space, but is {type(value).__name__} ({value!r})"
        )
    return value


def validate_model(value: Any) -> str:
    """Returns the name of a model.

    Raises:
        OptionError: it is not a ``str``, empty or too long.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_MODEL_NAME:
        raise OptionError(
            f"model must be a str of 1 to {MAX_MODEL_NAME} characters, the name of a model of the server, but is "
            f"{type(value).__name__} ({str(value)[:200]!r})"
        )
    return value


class RequestDefaults(NamedTuple):
    """What all requests of a client ask for.

    Attributes:
        vector_space: the space that vectors must be of, unless a request names another one; ``None`` for any.
        model: the option ``model``; empty for the first model of the server.
    """

    vector_space: str | None
    model: dict[str, str]


def request_defaults(vector_space: Any, model: Any) -> RequestDefaults:
    """Checks two arguments of a client.

    Raises:
        OptionError: a value is not valid.
    """
    return RequestDefaults(
        None if vector_space is None else validate_space(vector_space),
        {} if model is None else {"model": validate_model(model)},
    )


def require_support(options: dict[str, Any], protocol_version: int) -> None:
    """Checks that a server knows the options.

    Args:
        protocol_version: that of the server; 0 for an original one.

    Raises:
        OptionError: the server is older.
    """
    unknown = [name for name in options if _VERSIONS.get(name, OPTIONS_VERSION) > protocol_version]
    if unknown:
        needed = max(_VERSIONS.get(name, OPTIONS_VERSION) for name in unknown)
        found = f"has {protocol_version}" if protocol_version else "is an original one of version 1.10.0"
        raise OptionError(
            f"{', '.join(unknown)}: such options need a server with protocol_version {needed}, but this "
            f"server {found}; update the server, or omit them"
        )


def check_version(config: dict[str, Any]) -> None:
    """Accepts a server of this project, or an original one of version 1.10.0.

    Raises:
        VersionMismatchError: the server is neither.
    """
    known = config.get("protocol_version")
    if (isinstance(known, int) and known >= 1) or config.get("server_version") == COMPATIBLE_VERSION:
        return
    raise VersionMismatchError(
        f"version mismatch! server version is {config.get('server_version')!r}, and this client ({__version__}) speaks "
        f"the protocol of {COMPATIBLE_VERSION}. Update with "
        '"pip install -U bert-serving-server bert-serving-client", or skip this check with '
        '"BertClient(check_version=False)"'
    )


def version_of(config: dict[str, Any]) -> int:
    """Returns the protocol version in a server's configuration; 0 for an original server."""
    version = config.get("protocol_version")
    return version if isinstance(version, int) else 0


def to_json(options: dict[str, Any]) -> bytes:
    """Returns the options frame; empty without options."""
    return json.dumps(options, separators=(",", ":")).encode("ascii") if options else b""


@lru_cache(64, typed=True)
def options_frame(requested: bytes, /, **options: Any) -> bytes:
    """Returns the options frame of a request. Programs repeat a few of them.

    Args:
        requested: options frame that requests values of the reply; may be empty.
    """
    return to_json(options | (json.loads(requested) if requested else {}))


def _switch(name: str, value: Any, more: str = "") -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name} must be True or False{more}, but is {type(value).__name__} ({value!r})")
    return bool(value)
