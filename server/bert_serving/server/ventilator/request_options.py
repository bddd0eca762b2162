"""Decodes the options of a request, its fifth frame, and applies them to the model that is served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, NamedTuple

import msgspec

from bert_serving.client.protocol import (
    EMBEDDING_TYPES,
    LONG_OF_TRUNCATE,
    MAX_LAYERS,
    MAX_PROMPT_LENGTH,
    MAX_QUERIED,
    PART_MODES,
)

from ..config.request_pooling import Pooling, RequestPooling
from ..config.server_config import ServerConfig
from ..errors import Forbidden, InvalidRequest, TooLarge, VectorSpaceMismatch
from ..model.config import ModelConfig
from ..model.pipeline import Module, Normalize, Truncate
from ..model.pooling import PoolingStrategy
from ..model.quantization import missing_ranges, row_bytes
from ..model.vector_options import VectorOptions, apply_options, split_tail
from ..model.vector_space import RANGED_TYPES
from ..scheduling.jobs import NO_OPTIONS, JobOptions
from .outputs import OutputsResolver

#: Largest options frame in bytes: twice the size of ``MAX_QUERIED`` ids of the largest length.
MAX_OPTIONS_BYTES = 65536


class RequestOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fifth frame of a request. ``requests`` holds the ids of ``SHOW_PENDING`` and ``CANCEL``.

    ``share`` is for the HTTP server only: it proves that a request has the name of an HTTP key, see ``ShareTable``.
    """

    timing: bool = False
    num_tokens: bool = False
    requests: Annotated[list[int], msgspec.Meta(max_length=MAX_QUERIED)] = []
    normalize: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    vector_space: str | None = None
    pairs: bool | None = None
    raw_scores: bool = False
    long: str | None = None
    embedding_type: str | None = None
    share: str | None = None
    model: str | None = None
    outputs: list[str] | None = None
    pooling: str | None = None
    pooling_layer: Annotated[list[int], msgspec.Meta(max_length=MAX_LAYERS)] | None = None

    @property
    def key(self) -> bytes:
        """The options about vectors; empty without any. Requests that differ in them are not repetitions."""
        about_vectors = msgspec.structs.replace(self, timing=False, num_tokens=False, requests=[])
        return b"" if about_vectors == NO_REQUEST_OPTIONS else msgspec.json.encode(about_vectors)


#: Options of a request without options.
NO_REQUEST_OPTIONS = RequestOptions()
_DECODER: msgspec.json.Decoder[RequestOptions] = msgspec.json.Decoder(RequestOptions)


def decode_options(frame: bytes) -> RequestOptions:
    """Decodes the fifth frame.

    Raises:
        ValueError: not a JSON object, an unknown option, or a value of the wrong type.
    """
    try:
        options = _decode(frame)
        return NO_REQUEST_OPTIONS if options == NO_REQUEST_OPTIONS else options
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ValueError(
            f"the fifth frame, the options of a request, cannot be decoded ({str(error)[:200]}); known options: "
            f"{', '.join(RequestOptions.__struct_fields__)}"
        ) from None


def _decode(frame: bytes) -> RequestOptions:
    try:
        return _DECODER.decode(frame)
    except (msgspec.DecodeError, ValueError):
        # Rare: invalid, or a lone surrogate, which msgspec rejects. It is removed, as those of texts are.
        values = json.loads(frame)
        if not isinstance(values, dict):
            raise
        return msgspec.convert({key: _clean(value) for key, value in values.items()}, RequestOptions)


def _clean(value: object) -> object:
    """Returns a text, or the texts of a list, without lone surrogates."""
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return value.encode("utf-8", "ignore").decode() if isinstance(value, str) else value


def truncates(truncate: bool | None, long: str | None) -> bool:
    """Returns whether texts that are too long are truncated.

    Raises:
        InvalidRequest: the two options contradict each other.
    """
    if truncate is not None and long is not None and LONG_OF_TRUNCATE[truncate] != long:
        raise InvalidRequest(
            f"truncate {str(truncate).lower()} means long {LONG_OF_TRUNCATE[truncate]!r}, but long is "
            f"{long[:100]!r}: set only one of them"
        )
    return truncate is not False and long != "error"


class _Vectors(NamedTuple):
    """The vectors that a request gets before its options change their last modules.

    Attributes:
        pooling: the pooling of the request; None for that of the server.
        tail: the last modules.
        width: dimensions.
    """

    pooling: Pooling | None
    tail: tuple[Module, ...]
    width: int

    @property
    def plain(self) -> VectorOptions:
        """The options of these vectors if the request changes nothing else."""
        if self.pooling is None:
            return VectorOptions()
        return VectorOptions(pooling=self.pooling.strategy, layers=self.pooling.layers)


class OptionsResolver:
    """Applies the options of requests to the model that is served.

    Args:
        of_models: kinds of vectors of each model of the server by its name; empty for the only model.
    """

    def __init__(
        self, config: ServerConfig, model: ModelConfig, of_models: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        pipeline = config.pipeline
        self._prompts = {} if pipeline is None else pipeline.prompts
        self._pooling, self._pooled_tail = RequestPooling(config, model), config.pooled_tail
        self._own = _Vectors(
            None, () if pipeline is None else split_tail(pipeline.modules)[1], config.vector_size(model)
        )
        self._spaces = config.vector_spaces(model)
        self._token_level = config.pooling_strategy == PoolingStrategy.NONE
        self._task = config.task
        self._output_type = "float16" if config.output_dtype == "float16" else "float"
        modes = () if pipeline is None else pipeline.pooling
        self._is_mean = config.pooling_strategy == PoolingStrategy.REDUCE_MEAN and modes in ((), ("mean",))
        self._is_deterministic = config.deterministic
        self._has_shares = config.http_keys is not None
        self._outputs = OutputsResolver(config, of_models)

    def resolve(self, options: RequestOptions) -> JobOptions:
        """Returns the options of a job.

        Raises:
            InvalidRequest: the server cannot compute what the options ask for.
            VectorSpaceMismatch: the vectors are of another space than the request expects.
            Forbidden: the request names a share, and the server has none.
            TooLarge: the prompt is too long.
        """
        if options is NO_REQUEST_OPTIONS and self._outputs.has_dense:
            return NO_OPTIONS
        if options.share is not None and not self._has_shares:
            raise Forbidden("the option share is for the HTTP server of a server with -http_keys only: omit it")
        vectors = self._own
        if options.pooling is not None or options.pooling_layer is not None:
            vectors = self._find_pooling(options)
        outputs, long = self._outputs.resolve(options.outputs), self._long(options, vectors)
        self._outputs.check(outputs, long, options.embedding_type, options.normalize, options.dimensions)
        if outputs and vectors.pooling is not None:
            raise InvalidRequest("pooling is for dense vectors, but outputs has others: ask for them in two requests")
        vector = self._vector_options(vectors, options.normalize, options.dimensions, options.raw_scores)
        typed = self._with_type(vectors, vector, options.embedding_type)
        spaces = [self._spaces.of(typed), self._spaces.of_floats(vector)]
        if outputs:
            spaces = self._outputs.spaces(outputs, spaces)
        space = spaces[0]
        if options.vector_space is not None and options.vector_space not in spaces:
            raise VectorSpaceMismatch(
                f"the request expects vectors of the space {options.vector_space[:100]!r}, but those of this server "
                f"are of {space!r}: encode the other texts again too, or use the server with their model and options"
            )
        # Parts are averaged before their mean is normalized, and converted to the embedding type. The sink does so with
        # vectors of another pooling too, once it has selected their columns.
        is_late = long == "mean" or vectors.pooling is not None
        makes_unit = is_late and self._makes_unit(vectors, vector)
        code = (vector if is_late else typed).code
        bits, frame = self._outputs.frame_of(outputs, options.prompt_name, options.prompt)
        job = JobOptions(
            options.timing,
            options.num_tokens,
            self._prompt(options.prompt_name, options.prompt),
            truncates(options.truncate, options.long),
            (code if not makes_unit else self._code(VectorOptions(False, vector.dimensions))) | bits,
            vector.dimensions,
            space,
            options.pairs,
            long,
            makes_unit,
            0 if typed.embedding_type is None else row_bytes(typed.embedding_type, typed.dimensions or vectors.width),
            typed.code if is_late and typed.embedding_type is not None else 0,
            outputs,
            frame,
        )
        return job if vectors.pooling is None else self._with_pooling(job, vectors, vectors.pooling, typed)

    def _find_pooling(self, options: RequestOptions) -> _Vectors:
        """Returns the vectors of a request that asks for a pooling."""
        found = self._pooling.find(options.pooling, options.pooling_layer)
        if found is None:
            return self._own
        cuts = [module.dimensions for module in self._pooled_tail if isinstance(module, Truncate)]
        return _Vectors(found, self._pooled_tail, min([found.width, *cuts]))

    def _with_pooling(self, job: JobOptions, vectors: _Vectors, pooling: Pooling, typed: VectorOptions) -> JobOptions:
        """Returns the options of a job whose rows the sink finishes."""
        width = typed.dimensions or vectors.width
        return replace(
            job,
            vector_code=pooling.code,
            dimensions=None if width == pooling.width else width,
            row_bytes=row_bytes(typed.embedding_type or self._output_type, width),
            columns=pooling.columns,
            sent_bytes=row_bytes(self._output_type, pooling.sent_width),
            range_space=self._spaces.of_floats(typed) if typed.embedding_type in RANGED_TYPES else "",
        )

    def _long(self, options: RequestOptions, vectors: _Vectors) -> str:
        """Returns the value of ``long`` if texts that are too long become parts; else an empty text.

        Raises:
            InvalidRequest: the value is unknown, or parts are not possible.
        """
        long = options.long
        if long in (None, "cut", "error"):
            return ""
        if long not in PART_MODES:
            raise InvalidRequest(f"long is {long[:100]!r}: set one of cut, error, {', '.join(PART_MODES)}")
        reason = ""
        if self._task != "embed":
            reason = f"this server gives scores (-task {self._task})"
        elif self._token_level:
            reason = "this server returns one vector per token (-pooling_strategy NONE)"
        elif options.pairs:
            reason = "a pair has no parts"
        elif long == "late" and not self._is_mean_of(vectors):
            whose = "this server" if vectors.pooling is None else f"pooling {vectors.pooling.strategy}"
            reason = f"{whose} does not pool the mean of the tokens (pooling REDUCE_MEAN)"
        elif long == "late" and self._is_deterministic:
            reason = "-deterministic does not cover it"
        if reason:
            raise InvalidRequest(f"long is {long!r}, but {reason}: set long to cut or error")
        return long

    def _is_mean_of(self, vectors: _Vectors) -> bool:
        if vectors.pooling is None:
            return self._is_mean
        return vectors.pooling.strategy == PoolingStrategy.REDUCE_MEAN

    @staticmethod
    def _makes_unit(vectors: _Vectors, vector: VectorOptions) -> bool:
        """Returns whether vectors with these options have length 1."""
        modules = apply_options(vectors.tail, vector)
        return bool(modules) and isinstance(modules[-1], Normalize)

    def _code(self, vector: VectorOptions) -> int:
        return 0 if apply_options(self._own.tail, vector) == self._own.tail else vector.code

    def _with_type(self, vectors: _Vectors, vector: VectorOptions, embedding_type: str | None) -> VectorOptions:
        """Adds the embedding type, unless vectors have it anyway."""
        if embedding_type is None:
            return vector
        if embedding_type not in EMBEDDING_TYPES:
            raise InvalidRequest(
                f"embedding_type {embedding_type[:100]!r} is unknown: set one of {', '.join(EMBEDDING_TYPES)}"
            )
        self._require_vectors("embedding_type")
        typed = vector._replace(embedding_type=embedding_type)
        if problem := missing_ranges(self._spaces, typed, vectors.width):
            raise InvalidRequest(problem)
        return vector if embedding_type == self._output_type else typed

    def _require_vectors(self, name: str) -> None:
        """Checks that the server gives one vector per text, which an option needs."""
        if self._task != "embed":
            raise InvalidRequest(
                f"{name} is for vectors, but this server gives scores (-task {self._task}): omit {name}"
            )
        if self._token_level:
            raise InvalidRequest(
                f"{name} needs one vector per text, but this server returns one per token (-pooling_strategy NONE): "
                f"omit {name}"
            )

    def _vector_options(
        self, vectors: _Vectors, normalize: bool | None, dimensions: int | None, raw_scores: bool
    ) -> VectorOptions:
        plain = vectors.plain
        if raw_scores and self._task == "embed":
            raise InvalidRequest(
                "raw_scores needs scores, but this server gives vectors (-task embed): omit raw_scores, or start the "
                "server with -task classify or -task rerank"
            )
        if normalize is None and dimensions is None:
            options = plain._replace(raw_scores=raw_scores)
            return plain if apply_options(vectors.tail, options) == vectors.tail else options
        self._require_vectors("dimensions" if normalize is None else "normalize")
        width = vectors.width
        if dimensions is not None and not 1 <= dimensions <= width:
            whose = "the vectors of this server" if vectors.pooling is None else "vectors of this pooling"
            raise InvalidRequest(
                f"dimensions is {str(dimensions)[:100]}; {whose} have {width} dimensions: set 1 to {width}"
            )
        options = plain._replace(normalize=normalize, dimensions=None if dimensions == width else dimensions)
        return plain if apply_options(vectors.tail, options) == vectors.tail else options

    def _prompt(self, name: str | None, prompt: str | None) -> str | None:
        if name is not None and prompt is not None:
            raise InvalidRequest(f"prompt_name {name[:100]!r} and prompt exclude each other: set only one of them")
        if name is not None:
            if name not in self._prompts:
                known = ", ".join(self._prompts) or "none"
                raise InvalidRequest(
                    f"prompt_name {name[:100]!r} is unknown; the prompts of this model: {known}. Set one of them, or "
                    "the text itself as prompt"
                )
            return self._prompts[name]
        if prompt is not None and len(prompt) > MAX_PROMPT_LENGTH:
            raise TooLarge(f"prompt has {len(prompt)} characters; the limit is {MAX_PROMPT_LENGTH}: shorten it")
        return prompt
