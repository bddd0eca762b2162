"""The validated options of one server, and what follows from them and the model."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import msgspec

from bert_serving.client.flag_sources import SOURCES

from ..errors import ConfigError
from ..model.pipeline import Module, SentencePipeline
from ..model.pooling import PoolingStrategy, dimensions
from ..model.vector_options import VectorOptions, apply_options, split_tail
from ..model.vector_space import PooledSpaces, VectorSpaces
from .contradictions import reject_contradictions
from .default_model import use_default_model
from .models import further_models, take_models
from .option import GIVEN
from .option_values import check_values
from .options import OPTIONS, PATHS, Options

if TYPE_CHECKING:
    from ..model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ServerConfig(Options):
    """Holds the validated options. Every child process receives a copy."""

    #: Options that the user gave, which win over the model folder; None: those that differ from their default.
    given: frozenset[str] = None  # type: ignore[assignment]
    #: How vectors are computed from pooled ones; None until the model folder is read.
    pipeline: SentencePipeline | None = None
    #: Digest of all that shapes a vector before the last modules of the pipeline; empty until the model is read.
    vector_digest: str = ""
    #: What it is the digest of, as JSON.
    vector_content: str = ""
    #: Name of the model that ``-model`` gives it; empty for that of its folder.
    name: str = ""
    #: Spaces of the vectors of other outputs than dense ones, by output; empty until the model is read.
    output_spaces: dict[str, str] = field(default_factory=dict)
    #: Content of ``-quantization_ranges``: least and greatest number of each dimension, by vector space.
    ranges: dict[str, list[list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validates the options, and fills in those that depend on others.

        Raises:
            ConfigError: a value is not valid, options contradict each other, or there is no model to serve.
        """
        values = {name: getattr(self, name) for name in OPTIONS}
        if self.pipeline is None:  # else the model folder has set options, also to values that no user can choose
            values = check_values(OPTIONS, values)
        given, model_name = _changed(values) if self.given is None else self.given, self.name
        if values["model"]:
            given, model_name = take_models(values, given, model_name)
        for name in PATHS:
            if isinstance(values[name], str):  # a shell leaves the ~ of -name=~/path
                values[name] = os.path.expanduser(values[name])
        if values["model_dir"] is None:
            use_default_model(values, given)
        for name, value in (values | {"given": frozenset(given), "name": model_name}).items():
            object.__setattr__(self, name, value)
        reject_contradictions(self)
        if self.pipeline is None:
            further_models(self)  # so that an invalid one ends the start before anything else

    @classmethod
    def from_args(cls, args: argparse.Namespace | Mapping[str, Any]) -> ServerConfig:
        """Creates the configuration from parsed arguments, or from option values by name.

        Raises:
            ConfigError: a value is not valid, options contradict each other, or there is no model to serve.
        """
        if isinstance(args, Mapping):
            return cls.from_dict(args)
        if not hasattr(args, "__dict__"):
            raise ConfigError(
                f"the arguments are of the type {type(args).__name__}; pass get_args_parser().parse_args([...]), or a "
                "dict of options"
            )
        if getattr(args, "config_file", None) and not hasattr(args, SOURCES):
            raise ConfigError("-config_file is for the commands: pass its values to BertServer as a dict of options")
        values = check_values(OPTIONS, {name: getattr(args, name, each.default) for name, each in OPTIONS.items()})
        return cls(**values, given=frozenset({*getattr(args, GIVEN, ()), *_changed(values)}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ServerConfig:
        """Creates the configuration from option values, which count as given; absent options have their defaults.

        Raises:
            ConfigError: a value is not valid, options contradict each other, or there is no model to serve.
        """
        values = check_values(OPTIONS, values)
        return cls(**values, given=frozenset(values))

    def read_model(self) -> ModelConfig:
        """Reads the sizes and the file names of the model, without its weights.

        Raises:
            ModelError: the folder does not contain a supported model.
        """
        from ..model.config import load_model_config

        return load_model_config(
            self.model_dir if self.pipeline is None else self.pipeline.transformer_dir,
            config_name=self.config_name,
            ckpt_name=self.ckpt_name,
            tuned_model_dir=self.tuned_model_dir,
            adapter_dir=self.model_dir,
            base=self.base,
        )

    @property
    def settings_dir(self) -> str:
        """Folder whose modules and prompts count: that of the model, or of the base model of an adapter without any.

        Raises:
            ModelError: the base model is missing.
        """
        from ..model.adapter import settings_folder

        return settings_folder(self.model_dir, self.base)

    @property
    def changed(self) -> set[str]:
        """Names of the options whose value is not the default."""
        return _changed({name: getattr(self, name) for name in OPTIONS})

    @property
    def log_settings(self) -> tuple[str, str]:
        """Level and format of the log."""
        return "debug" if self.verbose else self.log_level, self.log_format

    @property
    def result_join_port(self) -> int | None:
        """Port for the results of joined machines."""
        return self.join_port_out or (None if self.join_port is None else self.join_port + 1)

    @property
    def has_text_vectors(self) -> bool:
        """Whether results are one vector per text: neither scores nor vectors of tokens, nor sparse ones alone."""
        return self.task == "embed" and self.pooling_strategy != PoolingStrategy.NONE and "dense" in self.outputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The kinds of vectors that requests may ask for; empty for scores."""
        if self.task != "embed":
            return ()
        return ("dense",) if self.pipeline is None else self.pipeline.outputs

    @property
    def output_dtype(self) -> str:
        """The dtype of vectors on the wire. Scores have their full precision, because small ones would be 0."""
        return "float16" if self.fp16 and self.task == "embed" else "float32"

    def vector_size(self, model: ModelConfig) -> int:
        """Returns the number of dimensions of a vector: of a text, or of a token with ``-pooling_strategy NONE``.

        It is 0 if the server has no dense vectors.
        """
        layers = len(self.pooling_layer)
        if self.pipeline is None:
            return dimensions(self.pooling_strategy, model.hidden_size, layers)
        if not self.pipeline.has_dense:
            return 0
        return self.pipeline.dimensions(self.pooled_size(model))

    def pooled_size(self, model: ModelConfig) -> int:
        """Returns the number of dimensions of a pooled vector, before the modules of the pipeline."""
        layers = len(self.pooling_layer)
        if self.pipeline is not None and self.pipeline.pooling:
            return model.hidden_size * layers * len(self.pipeline.pooling)
        return dimensions(self.pooling_strategy, model.hidden_size, layers)

    def vector_spaces(self, model: ModelConfig) -> VectorSpaces:
        """Returns the spaces of the vectors of this server."""
        width = self.pooled_size(model)
        pooled = PooledSpaces(self.vector_content, self.pooled_tail, model.hidden_size) if self.vector_content else None
        if self.pipeline is None:
            return VectorSpaces(self.vector_digest, (), width, self.ranges, pooled)
        tail = split_tail(self.pipeline.modules)[1]
        return VectorSpaces(self.vector_digest, tail, self.pipeline.widest(width), self.ranges, pooled)

    @property
    def pooled_tail(self) -> tuple[Module, ...]:
        """The last modules of vectors whose requests have a pooling of their own: ``-dimensions`` and ``-normalize``.

        A server that is started with this pooling leaves the modules of the model folder out too.
        """
        normalize = {"on": True, "off": False}.get(self.normalize)
        return apply_options((), VectorOptions(normalize, self.dimensions))

    def default_space(self, model: ModelConfig) -> str:
        """Returns the space of the vectors of requests without options; without dense vectors, of the first output."""
        if "dense" in self.outputs or self.task != "embed":
            return self.vector_spaces(model).default
        return self.output_spaces[self.outputs[0]]

    def to_json(self) -> str:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["given"] = sorted(self.given)
        values["pipeline"] = msgspec.to_builtins(self.pipeline)
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> ServerConfig:
        values = json.loads(text)
        values["given"] = frozenset(values["given"])
        values["pipeline"] = msgspec.convert(values["pipeline"], SentencePipeline | None)
        values["pooling_strategy"] = PoolingStrategy(values["pooling_strategy"])
        for name in ("pooling_layer", "device_map", "model"):
            values[name] = tuple(values[name])
        return cls(**values)

    def with_(self, **changes: Any) -> ServerConfig:
        """Returns a copy with some values changed. Changed options count as given."""
        return replace(self, **changes, given=self.given | (changes.keys() & OPTIONS.keys()))

    def public(self) -> dict[str, Any]:
        """Returns the options for the status JSON: sorted by name, with the pooling strategy as a number."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["pooling_strategy"] = int(self.pooling_strategy)
        values["pooling_layer"] = list(self.pooling_layer)
        values["device_map"] = list(self.device_map)
        pipeline = SentencePipeline("", ()) if self.pipeline is None else self.pipeline
        values |= {"pipeline": None if self.pipeline is None else pipeline.describe(), **pipeline.scores}
        for name in ("given", "vector_digest", "vector_content", "output_spaces", "ranges", "model", "name"):
            del values[name]
        values["outputs"] = list(self.outputs)
        values["prompts"] = list(pipeline.prompts)
        return dict(sorted(values.items()))


def _changed(values: dict[str, Any]) -> set[str]:
    """Returns the names of options whose value is not the default."""
    found = {name: values.get(name, each.default) for name, each in OPTIONS.items()}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return {name for name, value in plain.items() if value != OPTIONS[name].default}
